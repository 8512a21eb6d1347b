"""Renewal: few threads, few round trips, and never past the end of a lease."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_locks import Lease, Lock, LockConfigError, Locks, StoreUnavailable, renewal, signals
from celery_locks._runtime import ticker
from celery_locks.renewal import Keeper
from celery_locks.stores.types import Claim
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore, fail
from tests.support.waiting import eventually


def lost_by(lease: Lease) -> list[str]:
    heard: list[str] = []
    lease.on_lost(lambda lease, reason: heard.append(reason))
    return heard


@pytest.fixture
def live() -> FaultyStore:
    """A store in real time."""
    return FaultyStore()


@pytest.fixture
def threads() -> Callable[[], list[str]]:
    """The names of the threads of renewal that this test started and that live."""
    before = set(threading.enumerate())
    return lambda: sorted(
        thread.name for thread in threading.enumerate() if thread not in before and "celery-locks" in thread.name
    )


# --- When, and how many at once ---


def test_a_lease_is_renewed_every_third_of_its_ttl(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    lease = lock.acquire()
    clock.advance(9.9)
    keeper.tick()
    assert store.renewed == []
    clock.advance(0.1)
    keeper.tick()
    assert store.renewed == [1]
    assert (lease.remaining(), lock.holders()[0].expires_in) == (30, 30)
    clock.advance(9.9)
    keeper.tick()
    assert store.renewed == [1]


def test_renew_in_seconds_is_the_interval(
    locks: Locks, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    locks.lock("k", ttl=30, renew=15).acquire()
    clock.advance(14.9)
    keeper.tick()
    assert store.renewed == []
    clock.advance(0.1)
    keeper.tick()
    assert store.renewed == [1]


def test_without_renew_it_is_only_watched(
    locks: Locks, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    heard = lost_by(locks.lock("k", ttl=30, renew=False).acquire())
    clock.advance(29)
    keeper.tick()
    assert (store.renewed, heard) == ([], [])
    clock.advance(1)
    keeper.tick()
    assert (store.renewed, heard) == ([], ["expired"])


@pytest.mark.parametrize("renew", [15.1, 30, 0, -1, float("nan")])
def test_promise_10_an_interval_above_half_the_ttl_is_refused(locks: Locks, renew: float) -> None:
    with pytest.raises(LockConfigError, match="renew"):
        locks.lock("k", ttl=30, renew=renew)


def test_five_thousand_leases_are_renewed_in_one_call(
    locks: Locks, store: FaultyStore, clock: MovableClock, keeper: Keeper, threads: Callable[[], list[str]]
) -> None:
    leases = [locks.lock(f"k{i}", ttl=30).acquire() for i in range(5_000)]
    clock.advance(10)
    keeper.tick()
    assert set(store.renewed) == {5_000}  # on a slow machine its own thread comes too
    assert all(lease.remaining() == 30 for lease in leases)
    assert threads() == ["celery-locks-renewer", "celery-locks-watch"]


def test_leases_due_almost_at_the_same_time_are_renewed_together(
    locks: Locks, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    """However many there are, an interval has room for few calls."""
    for i in range(500):
        locks.lock(f"k{i}", ttl=30).acquire()
        clock.advance(0.002)
    end = clock.now() + 10
    while clock.now() < end:
        clock.advance(keeper._renewer(store).tick() or 10)  # as its thread sleeps
    assert sum(store.renewed) in range(500, 550)
    assert len(store.renewed) <= 1 / renewal.DUE_WITHIN_SECONDS + 2


def test_each_store_has_a_renewer_of_its_own(live: FaultyStore, threads: Callable[[], list[str]]) -> None:
    """A store that hangs holds up no other."""
    hangs, go_on = FaultyStore(), threading.Event()
    hangs.before["renew"] = lambda: go_on.wait(10)
    Locks(hangs).lock("k", ttl=0.3).acquire()
    lease = Locks(live).lock("k", ttl=0.3).acquire()
    eventually(lambda: len(live.renewed) >= 5)
    assert lease.held
    assert [name for name in threads() if "callbacks" not in name] == ["celery-locks-renewer"] * 2 + [
        "celery-locks-watch"
    ]
    go_on.set()


def test_promise_13_a_thousand_leases_of_many_threads_have_one_thread_of_each_kind(
    live: FaultyStore, threads: Callable[[], list[str]]
) -> None:
    start = threading.Barrier(8)

    def take(number: int) -> None:
        start.wait()
        for i in range(125):
            Locks(live).lock(f"{number}:{i}", ttl=30).acquire()

    takers = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in takers:
        thread.start()
    for thread in takers:
        thread.join()
    assert threads() == ["celery-locks-renewer", "celery-locks-watch"]


def test_promise_13_a_lease_outlives_many_times_its_ttl(live: FaultyStore) -> None:
    lease = Locks(live).lock("k", ttl=0.6).acquire()
    eventually(lambda: len(live.renewed) >= 9, 60)
    assert lease.held
    assert lease.release()


def test_idle_threads_end_and_start_again(
    live: FaultyStore, monkeypatch: pytest.MonkeyPatch, threads: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(ticker, "IDLE_SECONDS", 0.05)
    for _ in range(2):
        lease = Locks(live).lock("k", ttl=0.3).acquire()
        renewed = len(live.renewed)
        eventually(lambda renewed=renewed: len(live.renewed) > renewed)
        assert len(threads()) == 2
        lease.release()
        eventually(lambda: not threads())


def test_a_thread_that_could_not_be_started_is_started_the_next_time(
    live: FaultyStore, monkeypatch: pytest.MonkeyPatch, threads: Callable[[], list[str]]
) -> None:
    lock = Locks(live).lock("k", ttl=0.3)

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            lock.acquire()
    assert not lock.locked(), "an error while acquiring is not acquired"
    lease = lock.acquire()
    eventually(lambda: len(live.renewed) >= 4)
    assert lease.held
    assert len(threads()) == 2


# --- The store is away, late or wrong ---


def test_promise_10_a_blip_shorter_than_what_is_left_is_no_loss(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    lease = lock.acquire()
    heard = lost_by(lease)
    store.go_down()
    clock.advance(10)
    for _ in range(19):
        keeper.tick()
        clock.advance(1)
    assert (lease.remaining(), heard) == (1, [])
    store.come_back()
    keeper.tick()
    assert (lease.remaining(), heard) == (30, [])


def test_promise_10_a_failed_renewal_is_tried_until_the_deadline(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    heard = lost_by(lock.acquire())
    store.go_down()
    clock.advance(10)
    for _ in range(40):
        keeper.tick()
        clock.advance(0.5)
    keeper.tick()
    tried = len(store.renewed)
    assert tried >= 40
    assert heard == ["unreachable"]
    clock.advance(5)
    keeper.tick()
    assert len(store.renewed) == tried, "not after it"


def test_leases_that_could_not_be_renewed_are_tried_again_and_the_others_go_on(
    locks: Locks, store: FaultyStore, clock: MovableClock, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of many servers, one of which is away."""
    here, there = locks.lock("here").acquire(), locks.lock("there").acquire()
    away, renew = [there.token], store.renew

    def half(renewals: Any) -> list[Any]:
        known = renew([each for each in renewals if each.token not in away])
        return ["unreachable" if each.token in away else known.pop(0) for each in renewals]

    monkeypatch.setattr(store, "renew", half)
    clock.advance(10)
    keeper.tick()
    assert (here.remaining(), there.remaining()) == (30, 20)
    away.clear()
    clock.advance(ticker.RETRY_SECONDS)
    keeper.tick()
    assert there.remaining() == 30
    assert not there.lost


def test_an_unexpected_error_of_a_store_is_logged_and_tried_again(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    lease = lock.acquire()
    store.before["renew"] = broken
    clock.advance(10)
    keeper.tick()
    assert "ZeroDivisionError" in caplog.text
    store.come_back()
    clock.advance(1)
    keeper.tick()
    assert lease.remaining() == 30


def test_promise_10_a_store_that_hangs_is_noticed_at_the_local_deadline(live: FaultyStore) -> None:
    go_on = threading.Event()
    live.before["renew"] = lambda: go_on.wait(10)
    lease = Locks(live).lock("k", ttl=0.3).acquire()
    started = time.monotonic()
    lost = threading.Event()
    lease.on_lost(lambda lease, reason: lost.set())
    assert lost.wait(5)
    assert time.monotonic() - started < 1.5
    assert not go_on.is_set()
    assert lease.lost_reason == "unreachable"
    go_on.set()


def test_promise_10_an_answer_after_the_deadline_does_not_revive(live: FaultyStore) -> None:
    go_on = threading.Event()
    live.before["renew"] = lambda: go_on.wait(10)
    lease = Locks(live).lock("k", ttl=0.2).acquire()
    heard = lost_by(lease)
    eventually(lambda: heard)
    renewed = len(live.calls)
    go_on.set()
    eventually(lambda: Locks(live).lock("other", ttl=0.2).acquire().release() and len(live.calls) > renewed)
    assert lease.lost
    assert heard == ["unreachable"]


def test_after_a_suspend_a_lease_is_lost_and_not_renewed(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    """The renewer may be the first to run. Its renewal would keep up in the store what is lost here."""
    heard = lost_by(lock.acquire())
    clock.advance(31)
    keeper.tick()
    assert (store.renewed, heard) == ([], ["expired"])


def test_promise_12_at_max_hold_renewal_stops_and_the_key_is_free(
    locks: Locks, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    lock = locks.lock("k", ttl=30, max_hold=60)
    heard = lost_by(lock.acquire())
    for _ in range(6):
        assert heard == []
        clock.advance(10)
        keeper.tick()
    assert heard == ["max_hold"]
    assert not lock.locked()
    renewed = len(store.renewed)
    clock.advance(10)
    keeper.tick()
    assert len(store.renewed) == renewed


@pytest.mark.parametrize("reason", ["deleted", "stolen", "force_released"])
def test_promise_09_a_loss_is_reported_at_the_next_renewal(
    lock: Lock, clock: MovableClock, keeper: Keeper, reason: str
) -> None:
    lease = lock.acquire()
    heard = lost_by(lease)
    if reason == "force_released":
        lock.force_release()
    else:
        lock._store.release(lock._name, lease.token)
    if reason == "stolen":
        lock.acquire()
    clock.advance(10)
    keeper.tick()
    keeper.tick()
    assert heard == [reason]


def test_one_loss_among_many_leaves_the_others(locks: Locks, clock: MovableClock, keeper: Keeper) -> None:
    leases = [locks.lock(f"k{i}", ttl=30).acquire() for i in range(5)]
    locks.lock("k2").force_release()
    clock.advance(10)
    keeper.tick()
    assert [lease.held for lease in leases] == [True, True, False, True, True]
    assert {lease.remaining() for lease in leases} == {0, 30}


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_receivers_that_raise_do_not_end_the_threads(
    live: FaultyStore, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """`sys.exit()` in a receiver would end the watch or the renewer, and so leave all leases to their ttl."""

    def broken(**named: Any) -> None:
        raise error("receiver")

    signals.on_lock_lost.connect(broken)
    signals.on_lock_renewed.connect(broken)
    locks = Locks(live)
    locks.lock("lost", ttl=0.2, renew=False).acquire()
    heard = lost_by(locks.lock("lost too", ttl=0.5, renew=False).acquire())
    lease = locks.lock("k", ttl=0.3).acquire()
    eventually(lambda: heard and len(live.renewed) >= 6)
    assert lease.held
    assert "receiver" in caplog.text


def test_a_lease_that_was_lost_while_it_was_put_into_renewal_does_not_stay_there(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    lease = lock.acquire()
    lease._lose("deleted")
    keeper._renewer(store).add(lease, 10, clock.now())
    clock.advance(10)
    keeper.tick()
    assert store.renewed == []
    assert not keeper._renewer(store)._leases


# --- Renewal and release ---


def kept(keeper: Keeper) -> int:
    """How many entries of leases are left anywhere."""
    watch = keeper._watch
    return len(watch.leases()) + sum(len(each._leases) for each in keeper._renewers.values())


def test_a_release_ends_watch_and_renewal(lock: Lock, keeper: Keeper) -> None:
    lease = lock.acquire()
    assert keeper.kept(lease.token) is lease
    assert kept(keeper) == 2
    lease.release()
    assert keeper.kept(lease.token) is None
    assert kept(keeper) == 0


def test_a_loss_ends_watch_and_renewal(lock: Lock, clock: MovableClock, keeper: Keeper) -> None:
    lease = lock.acquire()
    clock.advance(30)
    assert lease.lost
    assert kept(keeper) == 0


def test_promise_11_no_renewal_outlives_its_release(live: FaultyStore, keeper: Keeper) -> None:
    """10,000 quick cycles of threads, with a renewer that is always at it and delays wherever they could hurt."""
    locks, dice = Locks(live), random.Random(11)
    quirk = threading.local()

    def delay() -> None:
        if dice.random() < 0.02:
            time.sleep(dice.random() / 1_000)

    live.before.update(renew=delay, release=delay)
    live.after.update(renew=delay, release=delay)
    failures: list[Any] = []

    def cycle(number: int) -> None:
        quirk.number = number
        lock = locks.lock(f"k{number}", ttl=60, renew=0.0005)
        for _ in range(1_250):
            lease = lock.acquire()
            heard = lost_by(lease)
            delay()
            if not lease.release() or heard or lease.held or lock.locked():
                failures.append((number, heard, lease))

    workers = [threading.Thread(target=cycle, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert live.renewed, "else nothing was tested"
    assert kept(keeper) == 0
    renewed = len(live.renewed)
    eventually(lambda: keeper.tick() is None)
    assert len(live.renewed) <= renewed + 1
    assert not live._locks, "no expiry rose: nothing is held, nobody is in line"


def test_promise_11_a_renewal_under_way_at_the_release_raises_no_expiry(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    lease = lock.acquire()
    heard = lost_by(lease)
    clock.advance(10)
    store.before["renew"] = lambda: lease.release()
    keeper.tick()
    assert (heard, lock.locked(), kept(keeper)) == ([], False, 0)


def test_release_later_is_tried_until_the_store_is_back(store: FaultyStore, keeper: Keeper) -> None:
    store.acquire(Claim("n", "t", "o", 30))
    store.go_down()
    keeper.release_later(store, "n", "t", within=30)
    eventually(lambda: store.calls.count("leave") >= 3)
    store.come_back()
    eventually(lambda: not store.holders("n"))


def test_release_later_gives_up_after_its_time(store: FaultyStore, keeper: Keeper) -> None:
    store.go_down()
    for i in range(20):
        keeper.release_later(store, "n", f"t{i}", within=0.05)
    eventually(lambda: not keeper._releaser(store)._releases, timeout=1)
    tried = len(store.calls)
    keeper.tick()
    assert len(store.calls) == tried


def test_release_later_tries_another_first_the_next_time(store: FaultyStore, keeper: Keeper) -> None:
    """One that can't be released must not keep the others for as long as its lease would live."""
    locks = Locks(store)
    stuck = threading.Event()

    def release() -> None:
        stuck.set()
        raise StoreUnavailable("this one alone")

    keeper._releaser(store).add("stuck", release, 30)
    assert stuck.wait(5)
    store.acquire(Claim("n", "t", "o", 30))
    keeper.release_later(store, "n", "t", within=30)
    eventually(lambda: not store.holders("n"))
    assert locks.store is store


def test_release_later_survives_an_unexpected_error(
    store: FaultyStore, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    store.before["release"] = broken
    keeper.release_later(store, "n", "t", within=0.05)
    eventually(lambda: not keeper._releaser(store)._releases)
    assert "could not be released" in caplog.text


def test_renewals_do_not_wait_for_releases_that_fail(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    lease = lock.acquire()
    store.before["leave"] = fail
    for i in range(50):
        keeper.release_later(store, "n", f"t{i}", within=30)
    asked = store.calls.count("leave")
    clock.advance(10)
    keeper._renewer(store).tick()
    assert lease.remaining() == 30
    assert store.calls.count("leave") <= asked + 5  # its own thread may tick meanwhile


# --- Fork ---


def run(script: str) -> str:
    """What a Python process prints that has the script as its program."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORKS = """
import os, sys, threading, time
from celery_locks import Locks, renewal, signals
from tests.support.faulty_store import FaultyStore

def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)

def in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

store = FaultyStore()
mine = Locks(store).lock("parent", ttl=0.3).acquire()
until(lambda: len(store.renewed) >= 2)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestFork:
    def test_promise_13_a_childs_own_leases_are_renewed(self) -> None:
        run(
            FORKS
            + """
def child():
    own = FaultyStore()
    lease = Locks(own).lock("child", ttl=0.3).acquire()
    until(lambda: len(own.renewed) >= 6)
    assert lease.held

in_child(child)
assert mine.held
"""
        )

    def test_promise_13_a_child_neither_renews_nor_loses_what_its_parent_holds(self) -> None:
        run(
            FORKS
            + """
def child():
    lost = []
    signals.on_lock_lost.connect(lambda **named: lost.append(named), weak=False)
    renewed = len(store.renewed)
    own = Locks(store).lock("child", ttl=0.2, renew=False).acquire()   # starts the watch
    until(lambda: lost)
    assert lost[0]["lease"] is own and len(lost) == 1
    assert renewal.keeper().kept(mine.token) is None
    assert len(store.renewed) == renewed

in_child(child)
until(lambda: len(store.renewed) >= 8)
assert mine.held and mine.release()
"""
        )

    def test_promise_13_the_owners_name_has_the_childs_number(self) -> None:
        run(
            FORKS
            + """
def child():
    lease = Locks(FaultyStore()).lock("child").acquire()
    assert lease.owner.endswith(f":{os.getpid()}"), lease.owner

assert mine.owner.endswith(f":{os.getpid()}")
in_child(child)
"""
        )


def test_log_of_a_failed_renewal_states_what_failed(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    lock.acquire()
    store.go_down()
    clock.advance(10)
    with caplog.at_level(logging.WARNING):
        keeper.tick()
    assert "1 leases could not be renewed, trying again: the store is away" in caplog.text
