"""The parts of the panel for which no Flower has to run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from celery_locks import Locks
from celery_locks.flower import shown
from celery_locks.flower.history import MOST_KEYS, History
from celery_locks.flower.navigation import with_entry
from celery_locks.flower.story import MOST_ENTRIES, MOST_SAMPLES
from celery_locks.listing import LockInfo, Page
from celery_locks.owners import called, running
from celery_locks.stores.base import Holder
from celery_locks.stores.memory import MemoryStore
from tests.support.celery_worker import ROOT

NAVIGATIONS = {
    "2.2": '<ul><li class="nav-item">\n<a class="nav-link{active}"\n href="/broker"\n {current}>Broker</a>\n</li></ul>',
    "2.0": '<ul><li class="nav-item">\n<a class="nav-link text-dark" href="/broker">Broker</a></li></ul>',
    "1.2": '<ul><li {item}><a href="/broker">Broker</a></li></ul>',
}


# The entry in Flower's navigation


@pytest.mark.parametrize("html", NAVIGATIONS.values(), ids=NAVIGATIONS)
def test_the_entry_is_like_that_of_the_broker(html: str) -> None:
    plain = html.format(active="", current="", item="")
    made = with_entry(plain, "/broker", "/locks", active=False)
    item = plain[len("<ul>") : -len("</ul>")]
    assert made == f"<ul>{item}\n{item.replace('broker', 'locks').replace('Broker', 'Locks')}</ul>"


@pytest.mark.parametrize("html", NAVIGATIONS.values(), ids=NAVIGATIONS)
def test_only_the_page_that_is_open_is_active(html: str) -> None:
    on_broker = html.format(active=" active", current='aria-current="page"', item='class="active"')
    added = with_entry(on_broker, "/broker", "/locks", active=False)[len(on_broker) - len("</ul>") :]
    assert "active" not in added
    assert "aria-current" not in added
    on_locks = with_entry(html.format(active="", current="", item=""), "/broker", "/locks", active=True)
    broker, locks = on_locks.split("</li>")[:2]
    assert "active" not in broker
    assert 'aria-current="page"' in locks
    assert 'class="active"' in locks or ' active"' in locks


def test_a_navigation_that_is_not_known_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "celery_locks"):
        assert with_entry("<nav></nav>", "/broker", "/locks", active=True) == "<nav></nav>"
    assert "/locks" in caplog.text


# What is shown


def test_a_holders_name_is_told_in_parts() -> None:
    run = shown.whose(running("shop.re[]sync", "id-7", "celery@web1 on ] earth"))
    assert (run["task"], run["task_id"], run["worker"]) == ("shop.re[]sync", "id-7", "celery@web1 on ] earth")
    call = shown.whose(called("shop.resync", "id-7", "web1:4711"))
    assert (call["task"], call["task_id"], call["worker"]) == ("shop.resync", "id-7", None)
    other = {"owner": "web1:4711", "task": None, "task_id": None, "worker": None, "queue": None}
    assert shown.whose("web1:4711") == other


def test_no_owner_token_is_shown() -> None:
    (holder,) = shown.holders([Holder("me", 7, 1, 2.0, 3.0, "secret-token")], 1_000.0)
    assert "secret-token" not in str(holder)
    assert (holder["since"], holder["until"]) == (998_000, 1_003_000)


# History


class Watched:
    """A history, and the locks that it sees."""

    def __init__(self) -> None:
        self.locks = Locks(MemoryStore())
        self.history = History()
        self.now = 1_000.0

    def look(self, prefix: str = "", after: str | None = None, count: int = 100) -> Page:
        self.now += 5
        page = self.locks.list(prefix, after, count)
        self.history.see_page(self.locks.name, prefix, after, page, self.now)
        return page

    def kinds(self, key: str) -> list[str]:
        """The newest first."""
        return [entry["kind"] for entry in self.history.of(key)["entries"]]

    def hear(self, kind: str, key: str, fencing_token: int | None = None, **more: object) -> None:
        self.now += 1
        event = {"type": f"lock-{kind}", "key": key, "fencing_token": fencing_token, "timestamp": self.now, **more}
        self.history.hear(event)


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.locks.close()


def test_looks_tell_who_held_and_that_it_ended(watched: Watched) -> None:
    lease = watched.locks.lock("a", owner="me").acquire()
    watched.look()
    watched.look()
    assert watched.kinds("a") == ["acquired"]
    entry = watched.history.of("a")["entries"][0]
    assert (entry["owner"], entry["fencing_token"], entry["seen"]) == ("me", lease.fencing_token, True)
    lease.release()
    watched.look()
    watched.look()
    assert watched.kinds("a") == ["ended", "acquired"]
    assert [sample[2:] for sample in watched.history.of("a")["samples"]] == [[0, 1], [0, 0]]


def test_a_page_says_nothing_of_keys_outside_it(watched: Watched) -> None:
    leases = [watched.locks.lock(key).acquire() for key in ("a:1", "a:3", "b:1", "}c")]
    watched.look()
    for lease in leases:
        lease.release()
    held = [watched.locks.lock(key).acquire() for key in ("a:2", "z")]
    watched.look("a:", after="a:1")
    kinds = [watched.kinds(key)[0] for key in ("a:1", "a:2", "a:3", "b:1")]
    assert kinds == ["acquired", "acquired", "ended", "acquired"]
    watched.look(count=1)
    # The list is ordered by full names, in which "}c" comes before "a:1".
    assert [watched.kinds(key)[0] for key in ("}c", "a:1", "b:1")] == ["ended", "ended", "acquired"]
    watched.look()
    assert watched.kinds("b:1")[0] == "ended"
    assert all(lease.release() for lease in held)


def test_what_an_event_told_is_not_told_again_by_a_look(watched: Watched) -> None:
    lease = watched.locks.lock("a", owner="me").acquire()
    watched.look()
    watched.hear("acquired", "a", lease.fencing_token, owner="me")
    watched.look()
    assert watched.kinds("a") == ["acquired"]
    assert not watched.history.of("a")["entries"][0]["seen"]
    lease.release()
    watched.look()
    watched.hear("lost", "a", lease.fencing_token, owner="me", reason="max_hold")
    watched.look()
    assert watched.kinds("a") == ["lost", "acquired"]
    assert watched.history.of("a")["entries"][0]["reason"] == "max_hold"


def test_a_look_that_was_overtaken_brings_nothing_back(watched: Watched) -> None:
    lease = watched.locks.lock("a").acquire()
    late = watched.locks.list()
    watched.hear("acquired", "a", lease.fencing_token)
    watched.hear("released", "a", lease.fencing_token)
    watched.history.see_page(watched.locks.name, "", None, late, watched.now)
    lease.release()
    watched.look()
    assert watched.kinds("a") == ["released", "acquired"]


def test_contention_is_counted(watched: Watched) -> None:
    for number in range(200):
        watched.hear("contended", "a", task="t", task_id=f"id-{number}")
    (entry,) = watched.history.of("a")["entries"]
    assert (entry["kind"], entry["times"], entry["task"], entry["task_id"]) == ("contended", 200, "t", "id-199")
    counted = watched.history.of("a")["contended"]
    assert sum(times for _, times in counted) == 200
    assert len(counted) in (4, 5), "by minutes"


def test_a_line_is_seen(watched: Watched) -> None:
    for waiting in (0, 3, 4, 0):
        watched.history.see_key(LockInfo("a", (), min(waiting, 1), 1, waiting), watched.now)
        watched.now += 1
    assert watched.kinds("a") == ["contended"]
    assert [sample[2] for sample in watched.history.of("a")["samples"]] == [3, 4, 0]


def test_more_holders_than_are_named_have_not_ended(watched: Watched) -> None:
    shared = watched.locks.semaphore("a", limit=40)
    leases = [shared.acquire() for _ in range(25)]
    watched.look()
    assert watched.kinds("a") == ["acquired"] * 20
    watched.history.see_key(watched.locks.info("a"), watched.now)
    assert watched.kinds("a") == ["acquired"] * 25
    watched.look()
    assert "ended" not in watched.kinds("a")
    for lease in leases:
        lease.release()
    watched.look()
    assert watched.kinds("a").count("ended") >= 20


def test_what_is_kept_for_a_called_task_is_no_holding(watched: Watched) -> None:
    for token in ("ticket:1", "ticket:1", "of the run"):
        held = (Holder("shop.resync[1] on web1", 7 + len(token), 1, 0.0, 3.0, token),)
        watched.history.see_key(LockInfo("a", held, 1, 1, 0), watched.now)
    assert watched.kinds("a") == ["acquired"]


def test_history_is_bounded(watched: Watched) -> None:
    for number in range(MOST_KEYS + 10):
        watched.hear("acquired", f"key {number}", number)
    assert watched.history.of("key 0")["entries"] == []
    assert len(watched.history._stories) == MOST_KEYS
    for number in range(MOST_ENTRIES + MOST_SAMPLES):
        watched.hear("acquired", "a", number)
        watched.history.see_key(LockInfo("a", (), 0, 1, number % 2), watched.now)
    of_a = watched.history.of("a")
    assert (len(of_a["entries"]), len(of_a["samples"])) == (MOST_ENTRIES, MOST_SAMPLES)
    watched.history.see_key(LockInfo("asked for and never held", (), 0, 1, 0), watched.now)
    assert "asked for and never held" not in watched.history._stories


@pytest.mark.parametrize(
    "event",
    [
        {"type": "lock-acquired"},
        {"type": "lock-acquired", "key": 7},
        {"type": "lock-unheard-of", "key": "a"},
        {"key": "a"},
    ],
)
def test_what_is_no_event_of_locks_is_passed_over(watched: Watched, event: dict[str, object]) -> None:
    watched.history.hear(event)
    assert watched.history.heard is None
    assert watched.history._stories == {}


@pytest.mark.parametrize("timestamp", ["now", float("inf"), float("nan"), -1, 1e300, None, True])
def test_odd_fields_of_an_event_do_no_harm(watched: Watched, timestamp: object) -> None:
    odd = {"owner": 7, "fencing_token": "x", "reason": None, "timestamp": timestamp}
    watched.history.hear({"type": "lock-lost", "key": "a", **odd})
    watched.history.hear({"type": "lock-contended", "key": "a", **odd})
    _, entry = watched.history.of("a")["entries"]
    assert (entry["kind"], entry["owner"], entry["fencing_token"], entry["reason"]) == ("lost", "", None, "")


# Where there is no Flower


def python(code: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)


def celery(*arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    code = "import sys; {}from celery.__main__ import main; sys.exit(main())"
    hide = f"sys.modules[{without!r}] = None; " if without else ""
    return subprocess.run(
        [sys.executable, "-c", code.format(hide), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_celery_works_without_flower() -> None:
    done = celery("--version", without="flower.events")
    assert (done.returncode, done.stderr) == (0, "")
    listed = celery("--help", without="tornado")
    assert "locks-panel" not in listed.stdout
    assert "No module" not in listed.stderr
    told = celery("locks-panel")
    assert "celery -A proj flower" in told.stdout


def test_other_commands_load_no_flower_for_us() -> None:
    code = "import sys; sys.argv = ['celery', 'worker']; import celery_locks.flower.entry; print(*sys.modules)"
    done = python(code)
    assert not {"flower", "tornado", "celery_locks.tasks", "celery_locks.flower.extension"} & set(done.stdout.split())


def test_installing_twice_changes_nothing() -> None:
    code = (
        "from flower import urls; from celery_locks.flower import install\n"
        "install(); first = list(urls.handlers), dict(urls.settings['ui_modules']); install()\n"
        "assert first == (urls.handlers, urls.settings['ui_modules']); print(len(first[0]))"
    )
    done = python(code)
    assert int(done.stdout) > 20
