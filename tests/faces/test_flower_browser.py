"""The pages of locks as people see them: a real Flower, real workers, and Chromium without a screen.

With ``CELERY_LOCKS_SCREENSHOTS=1`` the pictures of the documentation are made anew.
"""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from celery_locks import Lease, LockLost, Locks, owners
from celery_locks.stores.parking import Parked, Parking, Ticket
from celery_locks.testing.local import processes
from tests.support.celery_worker import ROOT, Worker
from tests.support.chromium import launched
from tests.support.flower import ODD_KEYS, Flower, killed_holder
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(300)]

#: Milliseconds to wait for what must come.
PATIENCE = 40_000
expect.set_options(timeout=PATIENCE)

PICTURES = ROOT / "docs" / "assets"


class Site:
    """What the tests look at."""

    def __init__(self, url: str, flower: Flower, worker: Worker, proxy: Proxy, app: Celery) -> None:
        self.url, self.flower, self.worker, self.proxy, self.app = url, flower, worker, proxy, app
        self.locks = Locks(url)

    def resync(self, shop: str, until: Path) -> AsyncResult:
        """Sends a task that holds a shop until a file is there."""
        return self.app.send_task("shop.resync", (shop, str(until)))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched("Flower's pages") as made:
        yield made


@pytest.fixture(scope="module")
def site(chromium: Browser) -> Iterator[Site]:
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        server = stack.enter_context(RedisServer(password="s3cr%t/pass"))
        proxy = stack.enter_context(Proxy(server.port))
        url = server.url(1)
        env = {"FLOWERS_URL": url}
        mine = {**env, "FLOWER_LOCKS_URL": server.url(1, port=proxy.port), "FLOWER_LOCKS_POLL": "1"}
        mine["FLOWER_UNAUTHENTICATED_API"] = "true"  # it has no login, and releases all the same
        worker = pool.submit(Worker, "tests.support.flower_app", env=env, arguments=["--task-events"], timeout=60)
        flower = pool.submit(Flower, "tests.support.flower_app", env=mine)
        made = [stack.enter_context(each.result(90)) for each in (worker, flower)]
        app = Celery(broker=url, backend=url, set_as_current=False)
        yield Site(url, made[1], made[0], proxy, app)
        assert "s3cr" not in made[1].log()


@pytest.fixture(scope="module")
def usual(chromium: Browser) -> Iterator[BrowserContext]:
    """What most tests open their pages in: it loads Flower's scripts once."""
    with opened(chromium) as context:
        yield context


@pytest.fixture
def look(chromium: Browser, usual: BrowserContext, site: Site) -> Iterator[Callable[..., Page]]:
    """Opens pages. In the end nothing may have gone wrong on them: no error of a script, no answer from 400 on."""
    with ExitStack() as stack:
        problems: list[str] = []

        def open_page(path: str = "/locks", **options: Any) -> Page:
            page = (stack.enter_context(opened(chromium, **options)) if options else usual).new_page()
            stack.callback(page.close)
            # A handler that is under way when its page closes would raise an error in the next call.
            stack.callback(page.unroute_all, behavior="ignoreErrors")
            page.on("console", lambda message: message.type == "error" and problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on(
                "response", lambda answer: answer.status >= 400 and problems.append(f"{answer.status} {answer.url}")
            )
            page.goto(site.flower.url + path)
            return page

        yield open_page
        assert problems == []


@contextmanager
def opened(chromium: Browser, **options: Any) -> Iterator[BrowserContext]:
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", **options})
    context.set_default_timeout(PATIENCE)
    try:
        yield context
    finally:
        context.close()


@pytest.fixture
def hold(site: Site) -> Iterator[Callable[..., Lease]]:
    """Holds keys for as long as a test runs."""
    with ExitStack() as stack:

        def acquire(key: str, **options: Any) -> Lease:
            lease = site.locks.lock(key, **options).acquire(timeout=30)
            stack.callback(lease.release)
            return lease

        yield acquire


@pytest.fixture
def name() -> str:
    """What the keys of a test begin with."""
    return f"t{uuid.uuid4().hex[:8]}:"


texts = "found => found.map(one => one.textContent)"


def listed(page: Page) -> list[str]:
    return page.locator("#locks-rows tr td:first-child a").all_inner_texts()


def search(page: Page, prefix: str) -> None:
    page.locator("#locks-search").fill(prefix)


def key_page(page: Page, site: Site, key: str) -> None:
    """Goes to a key's page by the list."""
    search(page, key[:20])
    page.locator("#locks-rows a").filter(has_text=key).first.click()
    expect(page.locator("#locks-status")).to_have_text("Live")


def picture(page: Page, name: str, full_page: bool = False) -> None:
    if os.environ.get("CELERY_LOCKS_SCREENSHOTS"):
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"flower-{name}.png", animations="disabled", full_page=full_page)
        assert (PICTURES / f"flower-{name}.png").stat().st_size < 150_000


def test_locks_is_an_entry_on_every_page(look: Callable[..., Page], site: Site) -> None:
    page = look("/")
    active = page.locator(".app-nav .nav-link.active")
    expect(active).to_have_text("Workers")
    page.get_by_role("link", name="Locks", exact=True).click()
    expect(page.locator("#locks-status")).to_have_text("Live")
    expect(active).to_have_text("Locks")
    expect(active).to_have_attribute("aria-current", "page")
    expect(page.locator("[aria-current=page]")).to_have_count(1)
    page.goto(site.flower.url + "/broker")
    expect(page.get_by_role("link", name="Locks", exact=True)).to_have_attribute("href", "/locks")
    expect(active).to_have_text("Broker")
    for path in ("/tasks", f"/worker/{site.worker.hostname()}", "/nowhere"):
        assert re.search(r'href="/locks"\s*>Locks</a>', site.flower.get(path).text), path


def test_a_row_comes_and_goes_without_a_reload(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    page = look("/locks")
    page.evaluate("window.same = true")
    search(page, name)
    expect(page.locator("#locks-rows")).to_contain_text("No key that begins with this text is held.")
    lease = hold(f"{name}7")
    row = page.locator("#locks-rows tr").filter(has_text=f"{name}7")
    expect(row).to_contain_text(str(lease.fencing_token))
    expect(row).to_contain_text(site.locks.lock(lease.key).holders()[0].owner)
    expect(page.locator("#locks-held")).not_to_have_text("0")
    shared = site.locks.semaphore(f"{name}8", limit=3).acquire(permits=2)
    expect(page.locator("#locks-rows tr")).to_have_count(2)
    lease.release()
    expect(row).to_have_count(0)
    assert listed(page) == [f"{name}8"]
    assert page.evaluate("window.same")
    shared.release()


def test_a_killed_holders_row_goes_after_its_countdown(look: Callable[..., Page], site: Site, name: str) -> None:
    holder = killed_holder(site.url, f"{name}7", 6)
    try:
        page = look(f"/locks?prefix={name}")
        row = page.locator("#locks-rows tr").filter(has_text=f"{name}7")
        expect(row).to_have_count(1)
    finally:
        processes.end(holder)
    share = "bar => bar.firstElementChild.getBoundingClientRect().width / bar.getBoundingClientRect().width"

    def shown() -> float:
        return float(page.locator(".locks-bar").evaluate(share))

    at_first = eventually(lambda: shown() < 0.95 and shown(), 30)
    eventually(lambda: shown() < at_first - 0.1, 30)
    expect(row).to_have_count(0)


def test_search_and_sort_survive_a_refresh(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    leases = [hold(f"{name}{key}") for key in ("b", "c", "a")]
    page = look("/locks")
    search(page, name)
    expect(page.locator("#locks-rows tr td:first-child a")).to_have_text([f"{name}{key}" for key in "abc"])
    head = page.get_by_role("button", name="Fencing token")
    head.click()
    head.click()
    by_age = [f"{name}{key}" for key in "acb"]
    links = page.locator("#locks-rows tr td:first-child a")
    expect(links).to_have_text(by_age)
    leases.append(hold(f"{name}d"))
    expect(links).to_have_text([f"{name}d", *by_age])
    page.reload()
    expect(links).to_have_text([f"{name}d", *by_age])
    expect(page.locator("#locks-search")).to_have_value(name)
    expect(page.locator("[aria-sort=descending]")).to_have_text("Fencing token")
    search(page, f"{name}c")
    expect(links).to_have_text([f"{name}c"])


def test_pages_go_on_and_back(look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str) -> None:
    keys = [f"{name}{number:02}" for number in range(60)]
    for key in keys:
        hold(key, ttl=300, renew=False)
    page = look(f"/locks?prefix={name}&count=25")
    links = page.locator("#locks-rows tr td:first-child a")
    expect(links).to_have_text(keys[:25])
    page.get_by_role("button", name="Next").click()
    expect(links).to_have_text(keys[25:50])
    page.reload()
    expect(links).to_have_text(keys[25:50])
    page.get_by_role("button", name="Next").click()
    expect(links).to_have_text(keys[50:])
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.get_by_role("button", name="Previous").click()
    expect(links).to_have_text(keys[25:50])
    page.locator("#locks-count").select_option("100")
    expect(links).to_have_text(keys)


def test_promise_25_odd_keys_are_text_and_exactly_the_one_is_released(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease]
) -> None:
    odd = [*ODD_KEYS, "<b>" + "x" * 10_000]
    leases = {key: hold(key, owner=f"<u>owner of</u> {key[:50]}") for key in odd}
    page = look("/locks")
    page.add_init_script("window.hacks = 0; window.hacked = () => { window.hacks += 1; }")
    page.reload()
    held = [info.key for info in site.locks.list().items]
    eventually(lambda: page.locator("#locks-rows tr td:first-child bdi").evaluate_all(texts) == held, 30)
    for key in held:
        link = page.locator("#locks-rows tr td:first-child a").nth(held.index(key))
        assert page.evaluate("link => new URL(link.href).searchParams.get('key')", link.element_handle()) == key
    for key in (odd[0], odd[5], odd[-1]):  # test_flower.py releases all of them
        stored = site.locks.info(key).key
        index = page.locator("#locks-rows tr td:first-child bdi").evaluate_all(texts).index(stored)
        page.locator("#locks-rows tr td:first-child a").nth(index).click()
        expect(page.locator("#lock-holders tr")).to_have_count(1)
        assert page.locator("#lock-key").evaluate("key => key.textContent") == stored
        page.get_by_role("button", name="Release…").click()
        page.get_by_role("button", name="Release", exact=True).click()
        expect(page.locator("#lock-done")).to_contain_text("Released. It was held by <u>owner of</u>")
        del leases[key]
        assert site.locks.lock(key).holders() == ()
        assert all(site.locks.lock(other).locked() for other in leases), "another key was released"
        page.go_back()
        expect(page.locator("#locks-rows tr td:first-child a")).to_have_count(len(site.locks.list().items))
    assert page.evaluate("window.hacks") == 0
    assert page.locator("main img, main script, main u").count() == 0


def test_a_run_is_released_and_the_next_in_line_goes_on(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], tmp_path: Path
) -> None:
    done, key = tmp_path / "done", "shop:7"
    for other in ("user:4", "user:29", "report:2026-11"):
        hold(other, ttl=60)
    first = site.resync("7", done)
    eventually(lambda: site.locks.lock(key).locked(), 60)
    others = [site.resync("7", done) for _ in range(3)]
    eventually(lambda: site.locks.info(key).waiting == 3, 60)
    page = look("/locks")
    row = page.locator("#locks-rows tr").filter(has_text=key)
    expect(row).to_contain_text("shop.resync")
    expect(row).to_contain_text(site.worker.hostname())
    expect(row).to_contain_text("3")
    picture(page, "locks")
    row.get_by_role("link", name=key).click()
    expect(page.locator("#lock-holders")).to_contain_text(first.id)
    line = [waiter.task_id for waiter in site.locks.info(key).line]
    assert sorted(line) == sorted(result.id for result in others)
    expect(page.locator("#lock-line a")).to_have_text(line)
    expect(page.locator("#lock-history")).to_contain_text("acquired")
    expect(page.locator("#lock-history")).to_contain_text("contended")
    expect(page.locator("#lock-source")).to_contain_text("It has received the workers' events since")
    expect(page.locator("#lock-chart polyline")).to_have_count(1)
    picture(page, "lock", full_page=True)

    page.get_by_role("link", name=first.id).first.click()  # Flower's own page of the task
    expect(page.locator("main")).to_contain_text("shop.resync")
    page.go_back()

    fence = site.locks.lock(key).holders()[0].fencing_token
    page.get_by_role("button", name="Release…").click()
    expect(page.locator("#lock-dialog")).to_contain_text(first.id)
    picture(page, "release")
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator("#lock-dialog")).to_be_hidden()
    assert site.locks.lock(key).holders()[0].fencing_token == fence
    page.get_by_role("button", name="Release…").click()
    page.get_by_role("button", name="Release", exact=True).click()
    expect(page.locator("#lock-done")).to_contain_text(first.id)
    expect(page.locator("#lock-holders")).to_contain_text(line[0])
    expect(page.locator("#lock-history")).to_contain_text("released by hand")
    with pytest.raises(LockLost):
        first.get(timeout=60)
    expect(page.locator("#lock-history")).to_contain_text("lost")
    done.touch()
    assert [result.get(timeout=60) for result in others] == ["done"] * 3
    expect(page.locator("#lock-holders")).to_contain_text("This key is not held.")
    expect(page.locator("#lock-history tr").first).to_contain_text("released")
    expect(page.locator("#lock-history")).not_to_contain_text("no longer held")


def test_the_dialog_releases_all_keys_of_an_owner(
    look: Callable[..., Page], hold: Callable[..., Lease], name: str
) -> None:
    leases = [hold(f"{name}{number}", owner=f"org:{name}") for number in (1, 2)]
    other = hold(f"{name}3", owner=f"org:{name}other")
    page = look(f"/locks/key?key={name}1")
    page.get_by_role("button", name="Release…").click()
    page.get_by_label("Release all keys of this owner").check()
    page.get_by_role("button", name="Release", exact=True).click()
    expect(page.locator("#lock-done")).to_have_text(f"Released 2 leases of org:{name}.")
    assert [lease.release() for lease in leases] == [False, False]
    assert other.release()


def test_a_lease_that_has_changed_hands_is_not_released(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    lease = hold(f"{name}7", owner="the first")
    page = look(f"/locks/key?key={name}7")
    page.get_by_role("button", name="Release…").click()
    expect(page.locator("#lock-dialog")).to_contain_text("the first")
    page.route("**/locks/key/data?*", lambda route: None)  # the page doesn't learn what happens now
    lease.release()
    second = hold(f"{name}7", owner="the second")
    with page.expect_response(lambda answer: answer.url.endswith("/locks/release")) as answered:
        page.get_by_role("button", name="Release", exact=True).click()
    assert answered.value.json() == {"released": False, "owner": None}
    expect(page.locator("#lock-done")).to_contain_text("nothing was released")
    page.unroute("**/locks/key/data?*")
    expect(page.locator("#lock-holders")).to_contain_text("the second")
    assert second.release()


def test_the_open_dialog_states_that_its_lease_has_ended(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    lease = hold(f"{name}7", owner="the first")
    page = look(f"/locks/key?key={name}7")
    page.get_by_role("button", name="Release…").click()
    dialog, release = page.locator("#lock-dialog"), page.get_by_role("button", name="Release", exact=True)
    expect(release).to_be_visible()
    release.focus()
    lease.release()
    second = hold(f"{name}7", owner="the second")
    expect(dialog).to_contain_text("This lease has ended")
    expect(dialog).to_contain_text("the first")
    expect(release).to_be_hidden()
    page.keyboard.press("Enter")  # the focus is on the button that closes the dialog
    expect(dialog).to_be_hidden()
    eventually(lambda: page.evaluate("document.activeElement.getAttribute('aria-labelledby')") == "holders-heading")
    page.get_by_role("button", name="Release…").click()
    expect(dialog).to_contain_text("the second")
    expect(dialog).not_to_contain_text("has ended")
    expect(release).to_be_visible()
    assert second.release()


def test_promise_47_a_site_that_rebinds_its_name_releases_nothing(
    usual: BrowserContext, site: Site, hold: Callable[..., Lease], name: str
) -> None:
    """Its script is of the same origin, and gets the cookie and the token: Flower can tell it by the name alone."""
    lease = hold(f"{name}7")
    page = usual.new_page()
    page.goto(f"http://evil.example:{site.flower.port}/locks/key?key={name}7")
    expect(page.locator("#lock-holders")).to_contain_text(lease.owner)
    expect(page.get_by_role("button", name="Release…")).to_have_count(0)
    expect(page.locator("#lock-release-refusal")).to_contain_text("does not know the host evil.example")
    send = """async ([key, fencing_token]) => {
        const token = document.cookie.match(/_xsrf=([^;]+)/)[1];
        const headers = { "Content-Type": "application/json", "X-XSRFToken": token };
        const body = JSON.stringify({ key, fencing_token });
        const paths = ["/locks/release", "/api/locks/release"];
        return Promise.all(paths.map(async (path) => (await fetch(path, { method: "POST", headers, body })).status));
    }"""
    assert page.evaluate(send, [f"{name}7", lease.fencing_token]) == [403, 403]
    page.goto(f"{site.flower.url}/locks/key?key={name}7")
    assert page.evaluate(send, [f"{name}7", lease.fencing_token]) == [200, 200], "it was refused for another reason"
    page.close()


def test_history_by_events(look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str) -> None:
    """Events as workers send them where that is switched on."""
    key, lease = f"{name}7", hold(f"{name}7", owner="web1:1")
    page = look(f"/locks/key?key={key}")
    expect(page.locator("#lock-source")).to_contain_text("reads the store every 1 s")
    with site.app.events.default_dispatcher(hostname="somewhere") as events:
        shared = {"key": key, "owner": "web1:1", "fencing_token": lease.fencing_token}
        events.send("lock-acquired", **shared)
        for number in range(3):
            events.send("lock-contended", key=key, owner=f"web2:{number}", reason="<b>held</b>")
        lease.release()
        events.send("lock-lost", **shared, reason="max_hold")
    rows = page.locator("#lock-history tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("max_hold")
    expect(rows.nth(1)).to_contain_text("contended \u00d7 3")
    expect(rows.nth(1)).to_contain_text("<b>held</b>")
    expect(rows.nth(2)).to_contain_text("acquired")
    expect(rows.nth(2)).to_contain_text("web1:1")
    expect(page.locator("#lock-source")).to_contain_text("It has received the workers' events since")
    expect(page.locator("#lock-chart rect")).to_have_count(1)


def test_a_store_that_is_away_is_reported(chromium: Browser, site: Site, name: str) -> None:
    with site.locks.lock(f"{name}7"), opened(chromium) as context:
        page = context.new_page()
        page.goto(f"{site.flower.url}/locks?prefix={name}")
        row = page.locator("#locks-rows tr").filter(has_text=f"{name}7")
        expect(row).to_have_count(1)
        site.proxy.refuse()
        try:
            expect(page.locator("#locks-status")).to_have_text("Not live")
            expect(page.locator("#locks-dot")).to_have_class(re.compile("status-dot-error"))
            expect(page.locator("#locks-alert")).to_be_visible()
            expect(page.locator("#locks-alert")).to_contain_text("This page shows the state at")
            expect(row).to_have_count(1)
            picture(page, "away")
            assert "s3cr" not in page.content()
            page.reload()
            expect(page.locator("#locks-alert")).to_contain_text("Nothing is known of the locks.")
            expect(page.locator("#locks-rows")).to_contain_text("The list can't be shown. Look up this key.")
            assert "No locks" not in page.locator("main").inner_text()
            assert "No key" not in page.locator("main").inner_text()
        finally:
            site.proxy.heal()
        expect(row).to_have_count(1)
        expect(page.locator("#locks-status")).to_have_text("Live")
        expect(page.locator("#locks-alert")).to_be_hidden()


#: Notes what is written to the page, until it is called. Countdowns and the chart move by themselves.
WATCH = """() => {
    const written = [];
    const observer = new MutationObserver((changes) => changes.forEach(({ type, target }) => {
        const element = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
        const moves = element.closest(".locks-moving") ? " moving" : element.closest("#lock-chart") ? " chart" : "";
        written.push(`${type} ${element.id || element.className || element.tagName}${moves}`);
    }));
    const what = { subtree: true, childList: true, characterData: true, attributes: true };
    observer.observe(document.querySelector("main"), what);
    window.written = () => { observer.disconnect(); return written; };
}"""


def answers(page: Page, count: int) -> None:
    """Waits until the page has shown that many more answers."""
    for _ in range(count):
        with page.expect_response(lambda answer: "/data?" in answer.url, timeout=PATIENCE):
            pass
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


@pytest.mark.parametrize("address", ["/locks?prefix={}", "/locks/key?key={}7"], ids=["list", "key"])
def test_promise_48_a_refresh_keeps_focus_selection_and_nodes(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str, address: str
) -> None:
    for number in (6, 7, 8):
        hold(f"{name}{number}", ttl=300, renew=False)
    page = look(address.format(name))
    row = page.locator("tbody tr", has=page.locator(".locks-bar")).last
    target = row.locator("a, button").last
    expect(target).to_be_visible()
    answers(page, 1)
    target.focus()
    row.evaluate(
        "row => { const range = document.createRange(); range.selectNodeContents(row.querySelector('bdi')); "
        "getSelection().removeAllRanges(); getSelection().addRange(range); window.row = row }"
    )
    selected = page.evaluate("String(getSelection())")
    assert selected
    page.evaluate(WATCH)
    answers(page, 2)
    written = page.evaluate("window.written()")
    assert [one for one in written if not one.endswith((" moving", " chart"))] == []
    assert any(one.endswith(" moving") for one in written), "no countdown moved, so the page was not refreshed"
    assert page.evaluate("String(getSelection())") == selected
    assert target.evaluate("target => document.activeElement === target")
    assert page.evaluate("window.row.isConnected")


def test_a_click_during_refreshes_that_change_the_rows_is_a_click(
    look: Callable[..., Page], site: Site, name: str
) -> None:
    semaphore = site.locks.semaphore(f"{name}7", limit=3, ttl=300, renew=False)
    first, second = semaphore.acquire(), semaphore.acquire()
    page = look(f"/locks/key?key={name}7")
    rows = page.locator("#lock-holders tr")
    expect(rows).to_have_count(2)
    button = rows.filter(has_text=str(second.fencing_token)).get_by_role("button")
    button.hover()
    page.mouse.down()
    first.release()
    third = semaphore.acquire()
    expect(rows.last).to_contain_text(str(third.fencing_token))
    expect(rows).to_have_count(2)
    button.hover()  # it moved up
    page.mouse.up()
    expect(page.locator("#lock-dialog-token")).to_have_text(str(second.fencing_token))
    expect(page.locator("#lock-dialog")).to_be_visible()
    second.release()
    third.release()


def test_the_focus_moves_on_when_its_row_goes(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    leases = [hold(f"{name}{number}", ttl=300, renew=False) for number in (6, 7, 8)]
    page = look(f"/locks?prefix={name}")
    links = page.locator("#locks-rows tr td:first-child a")
    expect(links).to_have_count(3)
    links.nth(1).focus()
    leases[1].release()
    expect(links).to_have_text([f"{name}6", f"{name}8"])
    assert links.nth(1).evaluate("link => document.activeElement === link")
    leases[2].release()
    expect(links).to_have_text([f"{name}6"])
    assert links.nth(0).evaluate("link => document.activeElement === link")
    page.goto(f"{site.flower.url}/locks/key?key={name}6")
    page.get_by_role("button", name="Release…").focus()
    leases[0].release()
    expect(page.locator("#lock-holders")).to_contain_text("This key is not held.")
    assert page.evaluate("document.activeElement.getAttribute('aria-labelledby')") == "holders-heading"


def test_rows_are_sorted_in_place_around_the_one_with_the_focus(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    ttls = {"a": 100, "b": 400, "c": 200, "d": 300, "e": 500}
    leases = {key: hold(f"{name}{key}", ttl=ttl, renew=False) for key, ttl in ttls.items()}
    page = look(f"/locks?prefix={name}&sort=until&order=ascending")
    links = page.locator("#locks-rows tr td:first-child a")
    expect(links).to_have_text([f"{name}{key}" for key in "acdbe"])
    page.evaluate("document.querySelectorAll('#locks-rows tr').forEach(row => { row.same = true })")
    for focused, extended, ttl, order in (("d", "d", 600, "acbed"), ("d", "a", 700, "cbeda"), ("c", "c", 900, "bedac")):
        page.evaluate(
            "key => [...document.querySelectorAll('#locks-rows a')].find(a => a.innerText === key).focus()",
            f"{name}{focused}",
        )
        leases[extended].extend(ttl)
        expect(links).to_have_text([f"{name}{key}" for key in order])
        assert page.evaluate("document.activeElement.innerText") == f"{name}{focused}"
    assert page.evaluate("[...document.querySelectorAll('#locks-rows tr')].every(row => row.same)")


#: Milliseconds within which a page must no longer be live; the machine may be slow.
STALE = 8_000


@pytest.mark.parametrize("fault", ["stopped", "hang", "dribble", "half_open"])
def test_promise_48_a_page_is_not_live_when_no_answer_comes(
    usual: BrowserContext, site: Site, hold: Callable[..., Lease], name: str, fault: str
) -> None:
    """Flower is stopped; a proxy keeps all it gets; a body doesn't come to its end; a connection is dead."""
    for number in range(40):
        hold(f"{name}{number:02}", ttl=6)  # renewed all the time, so that each answer is a long one
    with Proxy(site.flower.port, redis=False) as proxy:
        pages = [usual.new_page() for _ in range(1 if fault == "dribble" else 2)]
        paths = (f"/locks?prefix={name}", f"/locks/key?key={name}07")
        for page, path in zip(pages, paths[: len(pages)], strict=True):
            page.goto(f"http://127.0.0.1:{proxy.port}{path}")
            expect(page.locator("#locks-status")).to_have_text("Live")
        asked: list[str] = []
        pages[0].on("request", lambda request: asked.append(request.url))
        begin, end = {
            "stopped": (
                lambda: os.kill(site.flower.pid, signal.SIGSTOP),
                lambda: os.kill(site.flower.pid, signal.SIGCONT),
            ),
            "hang": (proxy.hang, proxy.heal),
            "dribble": (proxy.dribble, proxy.heal),
            "half_open": (proxy.half_open, proxy.heal),
        }[fault]
        begin()
        try:
            if fault == "half_open":  # new connections work, so the page goes on by itself
                answers(pages[0], 2)
            else:
                for page in pages:
                    expect(page.locator("#locks-status")).to_have_text("Not live", timeout=STALE)
                    expect(page.locator("#locks-alert")).to_contain_text("This page shows the state at")
                    expect(page.locator(".locks-table").first).to_have_class(re.compile("locks-stale"))
                assert len(asked) <= 4, "questions pile up"
                shown = pages[0].locator("#locks-rows tr").first.inner_text()
                pages[0].wait_for_timeout(1_500)  # a countdown that goes on would have changed it
                assert pages[0].locator("#locks-rows tr").first.inner_text() == shown, "a countdown pretends to know"
        finally:
            end()
        for page in pages:
            expect(page.locator("#locks-status")).to_have_text("Live")
            expect(page.locator("#locks-alert")).to_be_hidden()
            page.close()


def test_promise_48_a_page_that_is_seen_again_is_judged_first(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    """A tab that was hidden, and a computer that slept: its clocks went on, and the page's timers did not."""
    hold(f"{name}7", ttl=300, renew=False)
    page = look(f"/locks?prefix={name}")
    status = page.locator("#locks-status")
    expect(status).to_have_text("Live")
    seen = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
        return document.querySelector("#locks-status").textContent;
    }"""
    later = "(seconds) => { const now = Date.now; Date.now = () => now() + 1000 * seconds; }"
    assert page.evaluate(seen, True) == "Paused"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(3_000)  # longer than a page that is seen waits
    assert asked == []
    page.evaluate(later, 6)
    os.kill(site.flower.pid, signal.SIGSTOP)
    try:
        assert page.evaluate(seen, False) == "Updating…"
        expect(status).to_have_text("Not live", timeout=STALE)
    finally:
        os.kill(site.flower.pid, signal.SIGCONT)
    expect(status).to_have_text("Live")
    # In one step: an answer between the jump of the clock and the look would be a new one.
    text = "document.querySelector('#locks-status').textContent"
    look_up = f"(() => {{ ({later})(6); dispatchEvent(new Event('focus')); return {text} }})()"
    assert page.evaluate(look_up) != "Live"
    expect(status).to_have_text("Live")
    page.evaluate(later, -3600)  # a clock that is set back: the page's other one still tells how old it is
    os.kill(site.flower.pid, signal.SIGSTOP)
    try:
        expect(status).to_have_text("Not live", timeout=STALE)
    finally:
        os.kill(site.flower.pid, signal.SIGCONT)
    expect(status).to_have_text("Live")


def test_a_kept_copy_of_an_answer_is_not_live(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    hold(f"{name}7", ttl=300, renew=False)
    page = look(f"/locks?prefix={name}")
    expect(page.locator("#locks-status")).to_have_text("Live")
    kept: list[Any] = []

    def from_cache(route: Route) -> None:
        if not kept:
            kept.append(route.fetch())
        route.fulfill(response=kept[0])

    page.route("**/locks/data?*", from_cache)
    expect(page.locator("#locks-status")).to_have_text("Not live")
    expect(page.locator("#locks-alert")).to_contain_text("repeats an old answer")
    page.unroute("**/locks/data?*")
    expect(page.locator("#locks-status")).to_have_text("Live")


def test_promise_48_500_rows_cost_little(look: Callable[..., Page], site: Site, name: str) -> None:
    """Counts, since the time that they take depends on the machine: nothing moves between two answers, and an answer
    lays the page out twice at most and writes to the rows in sight."""
    leases = [site.locks.lock(f"{name}{number:03}", ttl=300, renew=False).acquire() for number in range(500)]
    page = look(f"/locks?prefix={name}&count=500")
    expect(page.locator("#locks-rows tr")).to_have_count(500)
    answers(page, 2)
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")

    def counted() -> dict[str, float]:
        return {each["name"]: each["value"] for each in client.send("Performance.getMetrics")["metrics"]}

    page.evaluate(WATCH)
    page.evaluate("""() => {
        window.frames_ = 0;
        const watch = () => { window.frames_ += document.getAnimations().length; requestAnimationFrame(watch); };
        watch();
    }""")
    received: list[str] = []
    page.on("response", lambda answer: received.append(answer.url))
    before = counted()
    answers(page, 4)
    after, written, animated = counted(), page.evaluate("window.written()"), page.evaluate("window.frames_")
    assert animated == 0, "something is animated all the time"
    shown = len(received)  # four, or more where the machine is slow
    assert after["LayoutCount"] - before["LayoutCount"] <= 2 * shown + 2
    assert [one for one in written if not one.endswith(" moving")] == []
    in_sight = page.locator("#locks-rows tr.locks-seen").count()
    assert 5 < in_sight < 40
    assert 0 < len(written) <= shown * (4 * in_sight + 1), "rows that nobody sees are drawn"
    last = page.locator("#locks-rows tr").last
    last.scroll_into_view_if_needed()
    expect(last).to_have_class("locks-seen")
    expect(last.locator(".locks-bar > span")).to_have_attribute("style", re.compile("scaleX"))
    for lease in leases:
        lease.release()


def test_promise_48_states_of_holders_and_the_calls_lease(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    lease = hold(f"{name}7", ttl=300, renew=False)
    states = {
        "dispatched": {
            "state": "dispatched",
            "queue": "<b>nightly</b>",
            "worker": None,
            "task": "shop.resync",
            "task_id": "id-1",
        },
        "lasting": {"state": "lasting", "queue": None, "worker": None, "task": "shop.resync", "task_id": "id-1"},
        "called": {"state": "called", "queue": "celery", "worker": None, "task": "shop.resync", "task_id": "id-1"},
        "running": {
            "state": "running",
            "queue": None,
            "worker": "celery@web1",
            "task": "shop.resync",
            "task_id": "id-1",
        },
    }
    state, part = "dispatched", ""

    def changed(route: Route) -> None:
        headers = {name: value for name, value in route.request.headers.items() if name != "if-none-match"}
        answer = route.fetch(url=route.request.url.replace("&part=call", ""), headers=headers)
        data = answer.json()
        locks = data.get("locks", [data])
        for lock in locks:
            lock["part"] = part
            for holder in lock["holders"]:
                holder.update(states[state])
        route.fulfill(response=answer, json=data, headers={**answer.headers, "etag": f"{state}{part}"})

    for width in (1280, 500):
        page = look(f"/locks?prefix={name}", viewport={"width": width, "height": 800}, color_scheme="dark")
        page.route(re.compile("/locks/(key/)?data"), changed)
        row = page.locator("#locks-rows tr")
        state, part = "dispatched", ""
        expect(row).to_contain_text("dispatched to queue <b>nightly</b>, not started")
        expect(row.get_by_text("until it is dispatched again")).to_be_visible()
        expect(page.locator("#locks-held")).to_contain_text("1 not started")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert row.locator(".locks-badge:visible").count() == 1
        assert row.locator(".locks-badge:visible").get_attribute("title")
        state, part = "called", "call"
        expect(row.locator(".locks-badge:visible")).to_have_text("called, not started")
        expect(row.locator(".locks-tag")).to_have_text("call")
        link = row.locator("td:first-child a")
        assert page.evaluate("link => new URL(link.href).search", link.element_handle()).endswith("7&part=call")
        link.click()
        holders = page.locator("#lock-holders")
        expect(holders).to_contain_text("until the call's lease ends")
        expect(page.locator("#lock-part .locks-tag")).to_have_text("call")
        expect(page.locator("#lock-held")).to_contain_text("not started")
        page.get_by_role("button", name="Release…").click()
        expect(page.locator("#lock-dialog-state")).to_have_text("It is called, not started.")
        expect(page.locator("#lock-dialog-effect")).to_contain_text("message stays in its queue")
        page.route("**/locks/release", lambda route: route.fulfill(json={"released": False, "owner": None}))
        with page.expect_request("**/locks/release") as sent:
            page.get_by_role("button", name="Release", exact=True).click()
        assert sent.value.post_data_json == {"key": f"{name}7", "part": "call", "fencing_token": lease.fencing_token}
        state, part = "lasting", ""
        expect(holders).to_contain_text("kept until it expires")
        expect(page.locator("#lock-held")).not_to_contain_text("not started")
        state = "running"
        expect(holders).not_to_contain_text("kept until")
        if width == 1280:
            expect(holders).to_contain_text("celery@web1")


def test_promise_48_a_task_that_was_dispatched_is_shown_with_its_queue(
    look: Callable[..., Page], site: Site, name: str
) -> None:
    """What the store has after a worker parked and another one released: no worker consumes that queue."""
    lock, store = site.locks.lock(f"{name}7", ttl=300), site.locks.store
    assert isinstance(store, Parking)
    holder = lock.acquire(timeout=60)
    owner = owners.parked("shop.resync", "id-7", "of no worker")
    assert isinstance(store.enter(lock._new_claim(), Ticket("id-7:0", "message", "id-7", owner=owner)), Parked)
    (dispatch,) = store.end_run(lock._name, holder.token, "final", broker="")[1]
    store.published(dispatch, 300.0)
    page = look(f"/locks?prefix={name}")
    row = page.locator("#locks-rows tr")
    expect(row).to_contain_text("dispatched to queue of no worker, not started")
    expect(row).to_contain_text("id-7")
    row.locator("td:first-child a").click()
    expect(page.locator("#lock-holders")).to_contain_text("until it is dispatched again")
    expect(page.locator("#lock-held")).to_contain_text("not started")
    store.finish(lock._name, "id-7:0")
    expect(page.locator("#lock-holders")).to_contain_text("This key is not held.")


def test_a_key_of_which_nothing_is_recorded(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str
) -> None:
    page = look(f"/locks/key?key={name}7")
    expect(page.locator("#lock-history")).to_have_text("Nothing is recorded of this key.")
    expect(page.locator("#lock-source")).not_to_contain_text("Known since")
    hold(f"{name}7")
    expect(page.locator("#lock-history")).to_contain_text("acquired")
    expect(page.locator("#lock-source")).to_contain_text("Known since")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_looks_like_flower_and_fits_a_telephone(
    look: Callable[..., Page], site: Site, hold: Callable[..., Lease], name: str, scheme: str
) -> None:
    for number in range(3):
        hold(f"{name}a-key-of-some-length:{number}", owner="a-host-with-a-long-name.example.com:4711")
    page = look(f"/locks?prefix={name}", color_scheme=scheme, viewport={"width": 500, "height": 800})
    expect(page.locator("#locks-rows a")).to_have_count(3)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 3 * 128
    assert light == (scheme == "light"), background
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    table = page.locator("#locks-table")
    assert table.evaluate("it => it.scrollWidth <= it.parentElement.clientWidth"), "the table does not fit"
    if scheme == "dark":
        picture(page, "narrow")
    key_page(page, site, f"{name}a-key-of-some-length:1")
    expect(page.get_by_role("button", name="Release…")).to_be_visible()
    assert page.evaluate(fits)
