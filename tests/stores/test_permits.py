"""Never more permits than the limit, whatever the users of a semaphore do and whatever becomes of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from celery_locks import Locks
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.stores.types import Claim, Granted, Renewal
from celery_locks.testing import MovableClock
from celery_locks.testing.local import processes
from tests.stores import permit_fuzz
from tests.stores.permit_fuzz import Certain, Record, User, most_at_once
from tests.support.waiting import eventually

LIMIT, USERS, SECONDS = 5, 5, 6.0

# --- Real processes in real time ---


class Monitor:
    """Asks the store all the time for those who hold, by its own clock."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.seen: Counter[int] = Counter()

    def look(self) -> None:
        self.seen[sum(holder.permits for holder in self.store.holders(self.name))] += 1
        self.seen[self.store.held(self.name)] += 1


def kill(pid: int, sig: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        if pid:  # 0 would be all of this group
            os.kill(pid, sig)


class Crew:
    """Users in processes of their own, of which those that end are replaced."""

    def __init__(self, url: str, key: str, folder: Path, slow: float) -> None:
        self.folder, self.slow = folder, slow
        arguments = [sys.executable, permit_fuzz.__file__, url, key, str(LIMIT), str(folder), str(USERS), str(slow)]
        path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with self.log().open("wb") as log:
            self.process = processes.start(arguments, output=log, env=path)

    def log(self) -> Path:
        return self.folder / "log"

    def disturb(self, chance: random.Random) -> None:
        """Kills one; or stops one for longer than a lease lives, so that all that it does next comes too late."""
        user = chance.choice(processes.children(self.process.pid) or [0])
        sig = chance.choice((signal.SIGKILL, signal.SIGSTOP))
        kill(user, sig)
        if sig == signal.SIGSTOP:
            threading.Timer(0.4 * self.slow, kill, (user, signal.SIGCONT)).start()

    def end(self) -> None:
        (self.folder / "over").touch()
        assert self.process.wait(30) == 0, self.log().read_text()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        processes.end(self.process)


def fuzz_with_processes(url: str, folder: Path, slow: float = 1.0) -> None:
    key, store, chance = f"permits-{uuid.uuid4().hex[:8]}", open_store(url), random.Random(19)
    monitor = Monitor(store, Locks(store, prefix="fuzz")._space.name(key))
    with Crew(url, key, folder, slow) as users:
        eventually(lambda: permit_fuzz.read(folder)[0], 30)
        disturbed = start = time.monotonic()
        while goes_on(start, folder, "killed"):
            monitor.look()
            if time.monotonic() > disturbed + 0.5 * slow:
                users.disturb(chance)
                disturbed = time.monotonic()
        users.end()
    judge(folder, monitor)
    store.close()


def goes_on(start: float, folder: Path, ending: str) -> bool:
    """Until the time is over and enough has happened; a busy machine gets more time."""
    time.sleep(0.001)
    if time.monotonic() < start + SECONDS:
        return True
    time.sleep(0.1)  # reading all that has happened takes a while
    leases, happened = permit_fuzz.read(folder)
    wanted = {ending: 3, "granted": 30, "released twice": 1, "prolonged": 1, "used after its end": 1, "forced": 1}
    if most_at_once(leases) >= LIMIT and all(happened[event] >= most for event, most in wanted.items()):
        return False
    assert time.monotonic() < start + 60, f"nothing was shown: {happened}"
    return True


def judge(folder: Path, monitor: Monitor) -> None:
    """Never too many, by the record nor by the store; and nothing is left."""
    leases, _ = permit_fuzz.read(folder)
    assert most_at_once(leases) <= LIMIT, "by the record of the holders"
    assert max(monitor.seen) <= LIMIT, f"by the store: {monitor.seen}"
    assert most_at_once(leases) == max(monitor.seen) == LIMIT, "the limit was never reached: nothing was shown"
    eventually(lambda: permit_fuzz.all_had(monitor.store, monitor.name, LIMIT), 5, "permits were never given back")


@pytest.mark.slow
def test_promise_19_processes_on_redis(redis_url: str, tmp_path: Path) -> None:
    fuzz_with_processes(redis_url, tmp_path)


@pytest.mark.slow
def test_promise_19_processes_on_sqlite(tmp_path: Path) -> None:
    fuzz_with_processes(f"sqlite:///{tmp_path / 'locks.db'}", tmp_path)


@pytest.mark.slow
def test_promise_19_processes_on_postgresql(postgresql_url: str, tmp_path: Path) -> None:
    fuzz_with_processes(postgresql_url, tmp_path, slow=5)


@pytest.mark.slow
def test_promise_19_processes_on_mariadb(mariadb_url: str, tmp_path: Path) -> None:
    fuzz_with_processes(mariadb_url, tmp_path, slow=5)


class Died(BaseException):
    pass


@pytest.mark.slow
def test_promise_19_threads_in_memory(tmp_path: Path) -> None:
    """There are no other processes: users are threads, and those who die leave behind what they hold."""
    store, over, wrong = MemoryStore(), threading.Event(), list[BaseException]()
    monitor = Monitor(store, Locks(store, prefix="fuzz")._space.name("permits"))

    def die() -> None:
        raise Died

    def use(number: int) -> None:
        while not over.is_set():
            user = User(store, "permits", LIMIT, Record(tmp_path), f"{number} {time.monotonic()}", die)
            try:
                user.work(over.is_set)
            except Died:
                continue
            except BaseException as error:
                wrong.append(error)
                raise

    threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(USERS)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    while goes_on(start, tmp_path, "died"):
        monitor.look()
    over.set()
    for thread in threads:
        thread.join(10)
    assert wrong == []
    judge(tmp_path, monitor)


def test_the_record_counts_what_overlaps() -> None:
    """The judge itself: two that touch are no overlap, two that overlap are."""
    first = Certain(3, 0.0, 1.0, 2.0)
    assert most_at_once([first, Certain(3, 0.0, 2.0, 3.0)]) == 3
    assert most_at_once([first, Certain(3, 0.0, 1.9, 3.0), Certain(1, 0.0, 2.5, 3.0)]) == 6


def test_the_record_ends_what_was_released_or_forced(tmp_path: Path) -> None:
    record = Record(tmp_path)
    at = permit_fuzz.now()
    for token in ("a", "b", "c"):
        record.granted(token, 2, at, at + 100)
    record.write("releasing", token="a", at=at + 10)
    record.write("prolonged", token="c", until=at + 200)
    os.write(record._file, b'{"event": "releasing", "token": "b", "a')  # killed while it wrote
    assert sorted(round(lease.until - at) for lease in permit_fuzz.read(tmp_path)[0]) == [10, 100, 200]
    Record(tmp_path).write("forced", at=at + 20, answered=at + 21)
    assert sorted(round(lease.until - at) for lease in permit_fuzz.read(tmp_path)[0]) == [10, 20, 20]


# --- Every order of calls, on a clock that is moved ---

TOKENS = st.sampled_from("abcdef")
TTLS = st.sampled_from([1.0, 5.0, 20.0])


class Permits(RuleBasedStateMachine):
    """A store beside a record that only notes what was granted, until when."""

    make: Callable[..., Store]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = MovableClock()
        self.store = type(self).make(self.clock, str(Path(self.folder.name, "locks.db")))
        #: token → permits, deadline
        self.granted: dict[str, tuple[int, float]] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @property
    def live(self) -> dict[str, int]:
        return {token: permits for token, (permits, until) in self.granted.items() if until > self.clock.now()}

    @rule(token=TOKENS, ttl=TTLS, permits=st.integers(1, 4), limit=st.sampled_from([2, 5, 5, 5]), line=st.none() | TTLS)
    def acquire(self, token: str, ttl: float, permits: int, limit: int, line: float | None) -> None:
        before = self.live
        if not isinstance(self.store.acquire(Claim("s", token, token, ttl, limit, permits), line), Granted):
            assert token not in before, "who holds is granted again"
            return
        deadline = self.clock.now() + ttl
        if token in before:
            self.granted[token] = before[token], max(self.granted[token][1], deadline)
        else:
            assert sum(before.values()) + permits <= limit
            self.granted[token] = permits, deadline

    @rule(token=TOKENS)
    def release(self, token: str) -> None:
        assert self.store.release("s", token) == (token in self.live)
        self.granted.pop(token, None)

    @rule(token=TOKENS, ttl=TTLS)
    def renew(self, token: str, ttl: float) -> None:
        renewed = self.store.renew([Renewal("s", token, ttl)]) == [None]
        assert renewed == (token in self.live)
        if renewed:
            permits, until = self.granted[token]
            self.granted[token] = permits, max(until, self.clock.now() + ttl)

    @rule(token=TOKENS)
    def leave(self, token: str) -> None:
        self.store.leave("s", token)

    @rule()
    def force_release(self) -> None:
        assert len(self.store.force_release("s")) == len(self.live)
        self.granted.clear()

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_store_and_the_record_agree(self) -> None:
        told = {holder.token: holder.permits for holder in self.store.holders("s")}
        assert told == self.live
        assert self.store.held("s") == sum(told.values()) <= 5


def machine(make: Callable[..., Store], examples: int) -> Any:
    case = type(Permits)("Permits", (Permits,), {"make": staticmethod(make)}).TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=40, deadline=None)
    return case


class TestPromise19InMemory(machine(lambda clock, path: MemoryStore(clock), 100)):  # type: ignore[misc]
    def test_promise_19_any_order_of_calls(self) -> None:
        self.runTest()


class TestPromise19OnSQLite(machine(lambda clock, path: SQLiteStore(path, clock=clock), 40)):  # type: ignore[misc]
    def test_promise_19_any_order_of_calls(self) -> None:
        self.runTest()
