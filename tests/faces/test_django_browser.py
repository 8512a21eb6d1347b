"""The pages of locks in Django's admin as people see them: a real server, a real store, and Chromium."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from celery_locks import Locks
from celery_locks.testing.local import processes
from celery_locks.testing.nodes.ports import free_port
from tests.faces.test_django import SITE, environment
from tests.support.chromium import launched
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(180)]

LIST = "/admin/celery_locks/lock/"
#: Who releases: a name that would forge a line of a log, of the site's own users.
USER = "ann\nWARNING all is well\x1b[2J"
#: Keys that a form, an address or HTML would change, each with what the page shows for it.
ODD_KEYS = {
    "two\nlines": r"two\nlines",
    "two\\nlines": r"two\\nlines",
    "carriage\rreturn": r"carriage\rreturn",
    "both\r\n": r"both\r\n",
    "nul\0byte": r"nul\x00byte",
    "\ttab": r"\ttab",
    "  two  spaces ": r"\x20\x20two \x20spaces\x20",
    "line\u2028separator": r"line\u2028separator",
    "\u202ereversed\u200f": r"\u202ereversed\u200f",
    "עברית": "עברית",
    "cafe\u0301": r"cafe\u0301",
    "caf\xe9": "caf\xe9",
    "\u212b": r"\u212b",
    "a+b%20c%00&d=1;e#f?": "a+b%20c%00&d=1;e#f?",
    "<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
    "{{ key }}&lt;'\"": "{{ key }}&lt;'\"",
    "\ufffd": "\ufffd",
    "x" * 200: "x" * 200,
    "\x01" * 200: r"\x01" * 200,
}
LONG = "y" * 16_384
SET_UP = """
import sys
import django
django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
call_command("migrate", verbosity=0)
user = User.objects.create(username=sys.argv[1], is_staff=True, is_superuser=True)
session = SessionStore()
session.update({SESSION_KEY: str(user.pk), HASH_SESSION_KEY: user.get_session_auth_hash(),
                BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend"})
session.save()
print(session.session_key)
"""


class Site:
    """A project that serves its admin, and its store."""

    def __init__(self, address: str, session: str, store: str, log: Path) -> None:
        self.address, self.session, self.log, self.locks = address, session, log, Locks(store)

    def hold(self, key: str, owner: str = "an import") -> None:
        assert self.locks.lock(key, ttl=600, renew=False, owner=owner).try_acquire()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with launched("the admin's pages") as made:
        yield made


@pytest.fixture(scope="module")
def site(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, store = tmp_path_factory.mktemp("admin"), redis_server.url(511)
    own = {"SHOP_DB": str(folder / "db.sqlite3"), "SHOP_LOCKS": store}
    env = environment(**own)
    argv = [sys.executable, "-c", SET_UP, USER]
    session = subprocess.run(argv, cwd=SITE, env=env, capture_output=True, text=True, timeout=60, check=True).stdout
    port, log = free_port(), folder / "log"
    with log.open("wb") as output, ExitStack() as stack:
        serve = ["-m", "django", "runserver", "--noreload", "--insecure", f"127.0.0.1:{port}"]
        process = processes.start([sys.executable, *serve], output=output, env=env, cwd=SITE)
        stack.callback(processes.end, process)
        address = f"http://127.0.0.1:{port}"
        eventually(lambda: urllib.request.urlopen(address + "/admin/login/", timeout=10).status == 200, 60)
        yield Site(address, session.strip(), store, log)


@pytest.fixture(scope="module")
def page(chromium: Browser, site: Site) -> Iterator[Page]:
    """One page for all tests: it loads the admin's own files once."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(40_000)
    context.add_cookies([{"name": "sessionid", "value": site.session, "url": site.address}])
    made, scripts = context.new_page(), []
    made.on("dialog", lambda dialog: (scripts.append(dialog.message), dialog.dismiss()))
    yield made
    context.close()
    assert scripts == [], "a key or an owner ran a script"


def assert_it_fits(page: Page) -> None:
    """Nothing makes the page wider than the window, on a desk and on a phone."""
    for width in (1280, 500):
        page.set_viewport_size({"width": width, "height": 900})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{page.url[:80]} is {wide} px wide in a window of {width}"


def messages(page: Page) -> str:
    return page.locator(".messagelist").inner_text()


def test_promise_46_every_key_can_be_shown_and_released(page: Page, site: Site) -> None:
    for key in ODD_KEYS:
        site.hold(key)
    page.goto(site.address + LIST)
    assert_it_fits(page)
    links = page.locator("#result_list tbody th a").evaluate_all("all => all.map(one => [one.textContent, one.href])")
    assert sorted(shown for shown, _ in links) == sorted(ODD_KEYS.values())
    for key, shown in ODD_KEYS.items():
        page.goto(dict(links)[shown])
        assert page.locator("#content-main h2").text_content() == shown
        assert_it_fits(page)
        page.click("text=Release …")
        assert shown in (page.locator("#content-main").text_content() or "")
        assert_it_fits(page)
        assert site.locks.lock(key).locked()
        page.click("[value='Release it']")
        assert f"{shown} was released, which was held by an import." in (page.text_content(".messagelist") or "")
        assert not site.locks.lock(key).locked()
        assert "Not held" in page.inner_text("#content-main")
        assert_it_fits(page)
    page.goto(site.address + "/admin/")  # with what was done here
    assert_it_fits(page)


def test_promise_46_a_long_key_is_shown_as_it_is_held(page: Page, site: Site) -> None:
    site.hold(LONG)
    held = site.locks.list("yyyy").items[0].key
    assert held != LONG
    page.goto(f"{site.address}{LIST}key/?key={LONG}")
    assert page.locator("#content-main h2").text_content() == held
    assert "is stored as its beginning and a hash" in page.inner_text("#content-main")
    assert_it_fits(page)
    page.click("text=Release …")
    page.click("[value='Release it']")
    assert not site.locks.lock(LONG).locked()


def test_promise_46_long_owners_fold(page: Page, site: Site) -> None:
    site.hold("owned", "o" * 20_000)
    page.goto(site.address + LIST + "?prefix=" + "p" * 5_000)
    assert_it_fits(page)
    page.goto(site.address + LIST + "?prefix=owned")
    assert_it_fits(page)
    page.click("#result_list tbody th a")
    assert page.evaluate("document.documentElement.scrollHeight") < 2_000
    page.click("summary >> nth=0")
    assert_it_fits(page)
    assert page.locator("td details").inner_text().count("o") >= 20_000
    page.click("text=Release …")
    assert_it_fits(page)
    page.click("[value='Release it']")
    assert "held by oooo" in page.inner_text(".messagelist")
    assert len(messages(page)) < 300
    assert_it_fits(page)


def test_promise_48_what_a_release_by_an_old_page_did(page: Page, site: Site) -> None:
    site.hold("k", "first")
    page.goto(site.address + LIST + "key/?key=k")
    page.click("text=Release …")
    site.locks.lock("k").force_release()
    site.hold("k", "second\nline")
    page.click("[value='Release it']")
    ended = "The lease of k had ended before: nothing was released."
    assert messages(page) == ended + r" The key is now held by second\nline."
    page.click("text=Release …")
    site.locks.lock("k").force_release()
    page.click("[value='Release it']")
    assert messages(page) == ended + " The key is free now."


def test_promise_47_the_log_has_one_line_for_each_release(page: Page, site: Site) -> None:
    site.hold("logged\nkey", "an\nowner")
    page.goto(site.address + LIST + "key/?key=" + quote("logged\nkey"))
    page.click("text=Release …")
    page.click("[value='Release it']")
    line = r"'logged\nkey', held by an\nowner, was released in the admin by ann\nWARNING all is well\x1b[2J"
    eventually(lambda: line in site.log.read_text().splitlines())
    lines = site.log.read_text().splitlines()
    assert [one for one in lines if "all is well" in one and not one.startswith("'")] == []
    assert "owner, was" not in [one[:10] for one in lines]
