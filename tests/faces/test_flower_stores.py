"""Flower with several stores: its pages, its addresses for programs, and the release of what an owner holds."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from playwright.sync_api import expect

from celery_locks import Locks, Owner
from tests.support.chromium import launched
from tests.support.flower import Flower
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(300)]

SOON = 60.0
USER = Owner("user", within="org")
#: The name of a store that breaks HTML and addresses.
ODD = "<i>&more=1"


class Site:
    """A Flower that shows three stores; that of ``audit`` it reaches by a proxy."""

    def __init__(self, stack: ExitStack) -> None:
        server, other = stack.enter_context(RedisServer()), stack.enter_context(RedisServer())
        self.proxy = stack.enter_context(Proxy(other.port))
        stores = {"default": server.url(1), "audit": other.url(port=self.proxy.port), ODD: server.url(2)}
        env = {"FLOWERS_URL": server.url(), "FLOWERS_STORES": json.dumps(stores), "FLOWER_LOCKS_POLL": "0"}
        env["FLOWER_UNAUTHENTICATED_API"] = "true"
        self.app = Celery(broker=server.url(), set_as_current=False)
        self.locks, self.audit, self.odd = Locks(server.url(1)), Locks(other.url()), Locks(server.url(2))
        self.flower = stack.enter_context(Flower("tests.support.flower_app", env=env))

    def get(self, path: str) -> Any:
        return self.flower.get(path).json()

    def post(self, path: str, **body: Any) -> Any:
        return self.flower.post(path, body, {})


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack)


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def keys(page: dict[str, Any]) -> list[str]:
    return [lock["key"] for lock in page["locks"]]


def test_each_address_is_of_one_store(site: Site, key: str) -> None:
    ours = site.audit.lock(key, ttl=60, owner="ours").acquire()
    theirs = site.locks.lock(key, ttl=60, owner="theirs").acquire()
    assert site.get(f"/api/locks?prefix={key}")["store"]["name"] == "default"
    listed = site.get(f"/api/locks?prefix={key}&store=audit")
    assert (listed["store"]["name"], [lock["store"] for lock in listed["locks"]]) == ("audit", ["audit"])
    assert keys(site.get(f"/api/locks?prefix={key}&store={quote(ODD)}")) == []
    one = site.get(f"/api/locks/key?key={key}&store=audit")
    assert (one["store"]["name"], one["holders"][0]["owner"]) == ("audit", "ours")
    stale = site.post("/api/locks/release", key=key, fencing_token=ours.fencing_token).json()
    assert stale["released"] is (ours.fencing_token == theirs.fencing_token)
    released = site.post("/api/locks/release", key=key, fencing_token=ours.fencing_token, store="audit").json()
    assert released == {"released": True, "owner": "ours"}
    assert ours.release() is False
    assert f"'{key}' in the store audit, held by ours, was released in Flower" in site.flower.log()
    history = site.get(f"/api/locks/key?key={key}&store=audit")["history"]["entries"]
    assert history[0]["kind"] == "force_released"
    theirs.release()


@pytest.mark.parametrize("path", ["/api/locks?store=adit", "/api/locks/key?key=a&store=adit", "/locks/data?store=adit"])
def test_an_unknown_store_is_refused(site: Site, path: str) -> None:
    answer = site.flower.get(path)
    assert answer.status == 400
    assert answer.json()["error"] == f"no store has the name 'adit': the names are 'default', 'audit', {ODD!r}"
    assert site.post("/api/locks/release", key="a", fencing_token=1, store="adit").status == 400
    assert site.post("/api/locks/release", key="a", fencing_token=1, store=7).status == 400


def test_all_that_an_owner_holds_is_released(site: Site, key: str) -> None:
    user, other = USER(key, "user_1"), USER(key, "user_2")
    mine = [site.locks.lock(f"{key}:{number}", ttl=60, owner=user).acquire() for number in range(3)]
    mine.append(site.locks.semaphore(f"{key}:s", 2, ttl=60, owner=user).acquire())
    kept = [
        site.locks.semaphore(f"{key}:s", 2, ttl=60, owner=other).acquire(),
        site.audit.lock(f"{key}:0", ttl=60, owner=user).acquire(),
    ]
    answer = site.post("/api/locks/release-owned", owner=user).json()
    assert (answer["released"], [lease["key"] for lease in answer["leases"]]) == (4, [lease.key for lease in mine])
    assert {lease["owner"] for lease in answer["leases"]} == {user}
    assert "token" not in answer["leases"][0]
    assert [lease.release() for lease in mine] == [False] * 4
    assert all(lease.extend(60) is None for lease in kept)
    answer = site.post("/api/locks/release-owned", owner=f"org:{key}", store="audit").json()
    assert answer["released"] == 1
    assert site.post("/api/locks/release-owned", owner=f"org:{key}").json()["released"] == 1
    assert site.post("/api/locks/release-owned", owner=f"org:{key}").json() == {"released": 0, "leases": []}
    for wrong in ({}, {"owner": ""}, {"owner": 7}, {"owner": "x", "store": "adit"}):
        assert site.flower.post("/api/locks/release-owned", wrong, {}).status == 400, wrong


def test_the_release_of_an_owner_needs_what_any_release_needs(site: Site, key: str) -> None:
    with site.locks.lock(key, ttl=60, owner=key) as lease:
        for headers in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert site.flower.post("/api/locks/release-owned", {"owner": key}, headers).status == 403
        assert site.flower.post("/locks/release-owned", {"owner": key}, {}).status == 403, "without the page's token"
        lease.extend(60)


def test_an_event_belongs_to_its_store(site: Site, key: str) -> None:
    with site.app.connection_for_write() as connection, site.app.events.Dispatcher(connection) as events:
        events.send("lock-lost", key=key, owner="one", fencing_token=7, reason="expired", store="audit")
        events.send("lock-lost", key=key, owner="two", fencing_token=7, reason="expired")
        events.send("lock-lost", key=key, owner="three", fencing_token=7, reason="expired", store="adit")

    def owners(store: str) -> list[str]:
        entries = site.get(f"/api/locks/key?key={key}&store={store}")["history"]["entries"]
        return [entry["owner"] for entry in entries]

    eventually(lambda: (owners("audit"), owners("default")) == (["one"], ["two"]), SOON)


def test_a_store_that_is_away_hides_no_other(site: Site, key: str) -> None:
    with site.locks.lock(key, ttl=60):
        site.proxy.refuse()
        try:
            assert site.flower.get("/api/locks?store=audit").status == 503
            assert keys(site.get(f"/api/locks?prefix={key}")) == [key]
        finally:
            site.proxy.heal()


def test_the_page_has_a_choice_of_stores(site: Site, key: str) -> None:
    lease = site.audit.lock(f"{key}:audit", ttl=60, owner=USER("org_1", "user_42")).acquire()
    others = [locks.lock(f"{key}:{number}", ttl=60).acquire() for number, locks in enumerate((site.locks, site.odd))]
    problems: list[str] = []
    with launched("Flower's stores") as chromium:
        page = chromium.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(SOON * 1000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("response", lambda answer: answer.status >= 400 and problems.append(f"{answer.status} {answer.url}"))
        page.goto(f"{site.flower.url}/locks?prefix={key}")
        rows = page.locator("#locks-rows tr td:first-child a")
        expect(rows).to_have_text([f"{key}:0"])
        page.get_by_label("Store").select_option(ODD)
        expect(rows).to_have_text([f"{key}:1"])
        expect(page.get_by_label("Store")).to_have_value(ODD)
        page.get_by_label("Store").select_option("audit")
        expect(rows).to_have_text([f"{key}:audit"])
        rows.first.click()
        expect(page.locator("#lock-holders")).to_contain_text("org:org_1/user:user_42")
        expect(page.locator(".page-eyebrow")).to_contain_text("store audit")
        page.get_by_role("button", name="Release…").click()
        page.locator("#lock-dialog-release").click()
        expect(page.locator("#lock-done")).to_have_text("Released. It was held by org:org_1/user:user_42.")
        page.get_by_role("link", name="Locks", exact=True).last.click()
        expect(page.get_by_label("Store")).to_have_value("audit")
        expect(page.locator("#locks-rows")).not_to_contain_text(f"{key}:0")
    assert problems == []
    assert lease.release() is False
    for other in others:
        assert other.release()
