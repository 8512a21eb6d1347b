"""The parts of the panel for which no Flower has to run."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from celery_locks import Locks, StoreUnavailable, views
from celery_locks.flower import store_threads
from celery_locks.flower.access import shortened
from celery_locks.flower.history import IDLE_SECONDS, MOST_KEYS, MOST_RELEASED_KEYS, History
from celery_locks.flower.key_history import MOST_ENTRIES, MOST_SAMPLES
from celery_locks.flower.navigation import with_entry
from celery_locks.flower.payloads import holders_payload, milliseconds
from celery_locks.flower.store_threads import StoreBusy, StoreThreads
from celery_locks.lock_info import LockInfo, Page
from celery_locks.owners import called, running
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.types import Holder
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


def test_a_holders_name_is_shown_in_parts() -> None:
    run = views.owner_fields(running("shop.re[]sync", "id-7", "celery@web1 on ] earth"))
    assert (run["task"], run["task_id"], run["worker"]) == ("shop.re[]sync", "id-7", "celery@web1 on ] earth")
    call = views.owner_fields(called("shop.resync", "id-7", "web1:4711"))
    assert (call["task"], call["task_id"], call["worker"]) == ("shop.resync", "id-7", None)
    other = {"owner": "web1:4711", "task": None, "task_id": None, "worker": None, "queue": None}
    assert views.owner_fields("web1:4711") == other


def test_no_owner_token_is_shown() -> None:
    (holder,) = holders_payload([Holder("me", 7, 1, 2.0, 3.0, "secret-token")], 1_000.0)
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
        self.history.record_page(prefix, after, page, self.now)
        return page

    def kinds(self, key: str) -> list[str]:
        """The newest first."""
        return [entry["kind"] for entry in self.history.payload(key)["entries"]]

    def hear(self, kind: str, key: str, fencing_token: int | None = None, **more: object) -> None:
        self.now += 1
        event = {"type": f"lock-{kind}", "key": key, "fencing_token": fencing_token, "timestamp": self.now, **more}
        self.history.record_event(event)


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.locks.close()


def test_a_part_has_a_history_of_its_own(watched: Watched) -> None:
    call, key = watched.locks.lock("a", owner="a call"), watched.locks.lock("a}:call", owner="a key like a part")
    call._name = watched.locks._space.name("a", "call")
    leases = [call.acquire(), key.acquire()]
    watched.look(count=1)
    watched.look(after=watched.look(count=1).next)
    owners = [
        [entry["owner"] for entry in watched.history.payload(*of)["entries"]] for of in (("a", "call"), ("a}:call",))
    ]
    assert owners == [["a call"], ["a key like a part"]]
    assert watched.history.payload("a")["since"] is None
    leases[0].release()
    watched.look(prefix="a}:call")
    assert watched.history.payload("a", "call")["entries"][0]["kind"] == "acquired", "it is outside that range"
    watched.look()
    assert watched.history.payload("a", "call")["entries"][0]["kind"] == "ended"
    assert watched.history.payload("a}:call")["entries"][0]["kind"] == "acquired"


def test_events_of_a_part_are_its_own(watched: Watched) -> None:
    watched.hear("acquired", "a", 7, part="call")
    watched.hear("released", "a", 8, part="no part")
    assert watched.kinds("a") == []
    assert [entry["kind"] for entry in watched.history.payload("a", "call")["entries"]] == ["acquired"]


def test_looks_show_who_held_and_that_it_ended(watched: Watched) -> None:
    lease = watched.locks.lock("a", owner="me").acquire()
    watched.look()
    watched.look()
    assert watched.kinds("a") == ["acquired"]
    entry = watched.history.payload("a")["entries"][0]
    assert (entry["owner"], entry["fencing_token"], entry["seen"]) == ("me", lease.fencing_token, True)
    lease.release()
    watched.look()
    watched.look()
    assert watched.kinds("a") == ["ended", "acquired"]
    assert [sample[2:] for sample in watched.history.payload("a")["samples"]] == [[0, 1], [0, 0]]


def test_a_page_shows_no_keys_outside_it(watched: Watched) -> None:
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


def test_what_an_event_reported_is_not_reported_again_by_a_look(watched: Watched) -> None:
    lease = watched.locks.lock("a", owner="me").acquire()
    watched.look()
    watched.hear("acquired", "a", lease.fencing_token, owner="me")
    watched.look()
    assert watched.kinds("a") == ["acquired"]
    assert not watched.history.payload("a")["entries"][0]["seen"]
    lease.release()
    watched.look()
    watched.hear("lost", "a", lease.fencing_token, owner="me", reason="max_hold")
    watched.look()
    assert watched.kinds("a") == ["lost", "acquired"]
    assert watched.history.payload("a")["entries"][0]["reason"] == "max_hold"


def test_a_look_that_was_overtaken_brings_nothing_back(watched: Watched) -> None:
    lease = watched.locks.lock("a").acquire()
    late = watched.locks.list()
    watched.hear("acquired", "a", lease.fencing_token)
    watched.hear("released", "a", lease.fencing_token)
    watched.history.record_page("", None, late, watched.now)
    lease.release()
    watched.look()
    assert watched.kinds("a") == ["released", "acquired"]


def test_contention_is_counted(watched: Watched) -> None:
    for number in range(200):
        watched.hear("contended", "a", task="t", task_id=f"id-{number}")
    (entry,) = watched.history.payload("a")["entries"]
    assert (entry["kind"], entry["times"], entry["task"], entry["task_id"]) == ("contended", 200, "t", "id-199")
    counted = watched.history.payload("a")["contended"]
    assert sum(times for _, times in counted) == 200
    assert len(counted) in (4, 5), "by minutes"


def test_a_line_is_seen(watched: Watched) -> None:
    for waiting in (0, 3, 4, 0):
        watched.history.record_visit(LockInfo("celery-locks:{a}", (), min(waiting, 1), waiting), watched.now)
        watched.now += 1
    assert watched.kinds("a") == ["contended"]
    assert [sample[2] for sample in watched.history.payload("a")["samples"]] == [3, 4, 0]


def test_more_holders_than_are_named_have_not_ended(watched: Watched) -> None:
    shared = watched.locks.semaphore("a", limit=40)
    leases = [shared.acquire() for _ in range(25)]
    watched.look()
    assert watched.kinds("a") == ["acquired"] * 20
    watched.history.record_visit(watched.locks.info("a"), watched.now)
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
        watched.history.record_visit(LockInfo("celery-locks:{a}", held, 1, 0), watched.now)
    assert watched.kinds("a") == ["acquired"]


def test_history_is_bounded(watched: Watched) -> None:
    for number in range(MOST_KEYS + 10):
        watched.hear("acquired", f"key {number}", number)
    assert watched.history.payload("key 0")["entries"] == []
    assert watched.history.payload("key 0")["since"] is None
    assert len(watched.history._histories) == MOST_KEYS
    began = watched.history.payload("a")["since"]
    for number in range(MOST_ENTRIES + MOST_SAMPLES):
        watched.hear("acquired", "a", number)
        watched.history.record_visit(LockInfo("celery-locks:{a}", (), 0, number % 2), watched.now)
    of_a = watched.history.payload("a")
    assert (len(of_a["entries"]), len(of_a["samples"])) == (MOST_ENTRIES, MOST_SAMPLES)
    assert began is None
    watched.history.record_visit(LockInfo("celery-locks:{asked for and never held}", (), 0, 0), watched.now)
    assert "asked for and never held" not in watched.history._histories


def test_a_history_begins_where_nothing_is_missing(watched: Watched) -> None:
    now = time.time()
    watched.history.record_visit(LockInfo("celery-locks:{a}", (), 0, 1), now - 1_000)
    assert watched.history.payload("a")["since"] == milliseconds(now - 1_000)
    watched.now = now - 500
    for number in range(MOST_ENTRIES + 2):
        watched.hear("acquired", "a", number)
    dropped = watched.history.payload("a")["entries"][-1]["at"] - 1_000
    assert watched.history.payload("a")["since"] == dropped
    watched.hear("acquired", "b", 1, timestamp=9e10)
    for number in range(MOST_ENTRIES):
        watched.hear("acquired", "b", number + 2)
    assert watched.history.payload("b")["since"] <= milliseconds(time.time()), (
        "an event of the far future makes no such history"
    )


def scan(history: History, keys: Sequence[str], now: float) -> None:
    """A page of the list on which each of these keys is waited for."""
    history.record_page("", None, Page(tuple(LockInfo(f"celery-locks:{{{key}}}", (), 0, 1) for key in keys), None), now)


def test_promise_48_a_scan_evicts_nothing(watched: Watched) -> None:
    history = watched.history
    history.record_release("freed", "", Holder("me", 7, 1, 0.0, 3.0, "token"), "ann")
    watched.hear("lost", "heard", 8)
    scan(history, ["seen first"], 1_000.0)
    for page in range(20):
        scan(history, [f"{page}:{number:04}" for number in range(500)], 1_001.0 + page)
    assert len(history._histories) == MOST_KEYS
    assert watched.kinds("freed") == ["force_released"]
    assert watched.kinds("heard") == ["lost"]
    assert watched.kinds("seen first") == ["contended"]
    assert (watched.kinds("19:0499"), history.payload("19:0499")["since"]) == ([], None)


def test_a_key_that_was_free_for_long_makes_room_for_a_scan(watched: Watched) -> None:
    history, keys = watched.history, [f"{number:04}" for number in range(MOST_KEYS)]
    scan(history, keys, 1_000.0)
    scan(history, keys[2:], 1_001.0)  # the first two are free now
    scan(history, [*keys[1:], "new"], 1_002.0)  # and the second one is back
    assert history.payload("new")["since"] is None
    scan(history, [*keys[1:], "new", "newer"], 1_001.0 + IDLE_SECONDS)
    assert history.payload("0000")["since"] is None
    assert [history.payload(key)["since"] for key in ("0001", "new")] == [
        milliseconds(1_000),
        milliseconds(1_001 + IDLE_SECONDS),
    ]
    assert history.payload("newer")["since"] is None
    assert len(history._histories) == MOST_KEYS
    assert len(history._idle) == 0


def test_reported_entries_outlive_seen_ones(watched: Watched) -> None:
    history = watched.history
    for number in range(MOST_RELEASED_KEYS + 1):
        history.record_release(f"freed {number}", "", Holder("me", 7, 1, 0.0, 3.0, "token"), "ann")
    scan(history, [f"seen {number}" for number in range(MOST_KEYS)], 1_000.0)
    history.record_visit(LockInfo("celery-locks:{seen 7}", (), 0, 1), 1_001.0)  # its page was opened
    for number in range(MOST_KEYS - MOST_RELEASED_KEYS - 2):
        watched.hear("acquired", f"heard {number}", number)
    assert not [key for key in history._histories if key.startswith("seen") and key != "seen 7"]
    assert (watched.kinds("freed 0"), watched.kinds("seen 7")) == (["force_released"], ["contended"])
    for number in range(MOST_KEYS):
        watched.hear("acquired", f"heard later {number}", number)
    kept = [key for key in history._histories if key.startswith("freed")]
    assert kept == [f"freed {number}" for number in range(1, MOST_RELEASED_KEYS + 1)], "the newest ones stay"
    assert len(history._histories) == MOST_KEYS
    assert history._busy.keys() <= set(history._histories)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "lock-acquired"},
        {"type": "lock-acquired", "key": 7},
        {"type": "lock-acquired", "key": ""},
        {"type": "lock-acquired", "key": "\ud800"},
        {"type": "lock-unheard-of", "key": "a"},
        {"key": "a"},
    ],
)
def test_what_is_no_event_of_locks_is_passed_over(watched: Watched, event: dict[str, object]) -> None:
    watched.history.record_event(event)
    assert watched.history.first_event is None
    assert watched.history._histories == {}


@pytest.mark.parametrize("timestamp", ["now", float("inf"), float("nan"), -1, 1e300, None, True])
def test_odd_fields_of_an_event_do_no_harm(watched: Watched, timestamp: object) -> None:
    odd = {
        "owner": 7,
        "fencing_token": timestamp if timestamp == -1 else 10**30,
        "reason": None,
        "timestamp": timestamp,
    }
    watched.history.record_event({"type": "lock-lost", "key": "a", **odd})
    watched.history.record_event({"type": "lock-contended", "key": "a", **odd})
    _, entry = watched.history.payload("a")["entries"]
    assert (entry["kind"], entry["owner"], entry["fencing_token"], entry["reason"]) == ("lost", "", None, "")


def test_an_event_of_a_long_key_has_that_key(watched: Watched) -> None:
    lease = watched.locks.lock("x" * 1_000).acquire()
    watched.hear("acquired", "x" * 1_000, lease.fencing_token)
    assert watched.kinds(lease.key) == ["acquired"]


# Who asks, in a line of the log


def test_a_name_is_shortened_of_bounded_length() -> None:
    assert shortened("käse") == "käse"
    odd = shortened("a\nb\r\x1b[2J\u2028\x85\u202e\ud800" + "c" * 10_000)
    assert odd.startswith("a\\nb\\r\\x1b[2J\\u2028\\x85\\u202e\\ud800cc")
    assert len(odd) < 300
    assert len(shortened("\n" * 10_000)) < 500


# Threads for the store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_threads, "THREAD_WAIT_SECONDS", 0.2)


def test_a_thread_that_hangs_is_counted_until_it_ends(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, ran = threading.Event(), []

    def hang() -> None:
        let_go.wait(60)

    async def ask() -> None:
        pool = StoreThreads(2, "reads", 0.6)
        began = time.monotonic()
        late = await asyncio.gather(*(pool.run(hang) for _ in range(50)), return_exceptions=True)
        assert time.monotonic() - began < 5
        assert [type(error) for error in late] == [StoreUnavailable] * 2 + [StoreBusy] * 48
        assert "2 reads are running" in str(late[2])
        with pytest.raises(StoreBusy):  # the two are answered, and still there
            await pool.run(lambda: ran.append(1))
        let_go.set()
        monkeypatch.setattr(store_threads, "THREAD_WAIT_SECONDS", 60.0)
        pool._answer_seconds = 60.0
        assert await pool.run(lambda: 7) == 7
        assert ran == [], "what was refused was not done"
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        assert await asyncio.gather(*(pool.run(lambda: 7) for _ in range(50))) == [7] * 50

    asyncio.run(ask())


def test_reads_that_wait_share_one_which_is_no_older(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_threads, "THREAD_WAIT_SECONDS", 60.0)
    turns, reads = [threading.Event() for _ in range(2)], []

    def read() -> int:
        reads.append(len(reads))
        number = reads[-1]
        turns[number].wait(60)
        return number

    async def ask() -> None:
        pool = StoreThreads(1, "reads", 60.0)
        first = asyncio.ensure_future(pool.run(read, "same"))
        while not reads:
            await asyncio.sleep(0.001)
        # That read has begun: what it finds may be older than these.
        others = [asyncio.ensure_future(pool.run(read, "same")) for _ in range(20)]
        await asyncio.sleep(0)
        turns[0].set()
        assert await first == 0
        turns[1].set()
        assert await asyncio.gather(*others) == [1] * 20

    asyncio.run(ask())
    assert reads == [0, 1]


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
    code = "import sys; sys.argv = ['celery', 'worker']; import celery_locks.flower.entry_point; print(*sys.modules)"
    done = python(code)
    assert not {"flower", "tornado", "celery_locks.tasks", "celery_locks.flower._flower_patches"} & set(
        done.stdout.split()
    )


def test_installing_twice_changes_nothing() -> None:
    code = (
        "from flower import urls; from celery_locks.flower import install\n"
        "install(); first = list(urls.handlers), dict(urls.settings['ui_modules']); install()\n"
        "assert first == (urls.handlers, urls.settings['ui_modules']); print(len(first[0]))"
    )
    done = python(code)
    assert int(done.stdout) > 20
