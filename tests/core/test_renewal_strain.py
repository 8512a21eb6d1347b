"""Renewal on a real server: thousands of leases, code that lets no other thread run, processes of greenlets."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from celery_locks import LockLost, Locks
from celery_locks.errors import LossReason
from celery_locks.stores.redis.store import BATCH, RedisStore
from celery_locks.stores.types import Renewal
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually


class Counted(RedisStore):
    """Knows how many leases each renewal was about, and how long it took in seconds."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.renewals: list[tuple[int, float]] = []

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        started = time.monotonic()
        answers = super().renew(renewals)
        self.renewals.append((len(renewals), time.monotonic() - started))
        return answers


@pytest.mark.slow
def test_five_thousand_leases_are_renewed_in_a_few_round_trips(redis_url: str) -> None:
    many, ttl = 5_000, 30
    store = Counted(redis_url)
    locks = Locks(store)
    # Taken one after the other, as tasks take them: they are due at as many different moments.
    leases = [locks.lock(f"k{number}", ttl=ttl, renew=3).acquire() for number in range(many)]
    store.renewals.clear()
    eventually(lambda: sum(count for count, _ in store.renewals) >= 3 * many, 60)
    assert all(lease.held for lease in leases)
    cycles = sum(count for count, _ in store.renewals) / many
    round_trips = sum(-(-count // BATCH) for count, _ in store.renewals)
    # Leases due in the same quarter of an interval go together: four trips, and one more for each thousand.
    assert round_trips / cycles <= 4 + many / BATCH + 1, store.renewals
    assert max(seconds for _, seconds in store.renewals) < ttl / 3, store.renewals
    for lease in leases[:10]:
        assert lease.release()


@pytest.mark.slow
def test_code_that_lets_no_thread_run_finds_its_lease_lost_immediately(redis_url: str) -> None:
    """Nobody can renew meanwhile; what is true afterwards is known to the first instruction."""
    length, ttl = 18, 0.4
    lock = Locks(redis_url).lock("k", ttl=ttl)
    while True:
        lease = lock.acquire()
        started = time.monotonic()
        re.match(r"(a+)+$", "a" * length + "b")
        lost = lease.lost
        if time.monotonic() - started > 1.5 * ttl:
            break
        lease.release()
        length += 1
    assert lost
    assert lease.lost_reason in ("expired", "unreachable")
    with pytest.raises(LockLost):
        lease.check()
    assert lock.acquire(timeout=5).fencing_token > lease.fencing_token


GREENLETS = """
import sys
kind, url = sys.argv[1:]
if kind == "gevent":
    from gevent import monkey
    monkey.patch_all()
    import gevent
    spawn, wait = gevent.spawn, gevent.sleep
else:
    import eventlet
    eventlet.monkey_patch()
    spawn, wait = eventlet.spawn, eventlet.sleep
import threading, time
from celery_locks import Locks, signals
from celery_locks._runtime import threads
from celery_locks._runtime.threads import unpatched

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        wait(0.01)
"""


def in_greenlets(kind: str, url: str, script: str) -> None:
    argv = [sys.executable, "-W", "ignore", "-c", GREENLETS + script, kind, url]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


#: What holds in a process of greenlets. One process runs all of them: starting it takes longer than most of them.
CASES = """
def what_keeps_the_hub_busy_keeps_its_lease():
    renewed = []
    receiver = lambda **named: renewed.append(unpatched("get_ident")())
    signals.on_lock_renewed.connect(receiver)
    lease = Locks(url).lock("busy", ttl=1.0).acquire()
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        assert lease.held
    assert not renewed, "receivers are called by greenlets alone"
    until(lambda: len(renewed) >= 4)
    assert set(renewed) == {unpatched("get_ident")()}
    assert lease.release()


def a_loss_is_reported_by_a_greenlet():
    reported = []
    lock = Locks(url).lock("lost", ttl=1.0)
    lease = lock.acquire()

    def receiver(lease, reason):
        wait(0.01)  # it may wait, and use what belongs to the hub
        reported.append((reason, unpatched("get_ident")(), lock.locked()))

    lease.on_lost(receiver)
    lock.force_release()
    until(lambda: reported)
    assert reported == [("force_released", unpatched("get_ident")(), False)], reported


def greenlets_wait_in_line_and_the_hub_goes_on():
    lock, order, turns = Locks(url).lock("line", ttl=5), [], []

    def hold(number):
        with lock:
            order.append(number)
            wait(0.05)
            assert order[-1] == number, "two at once"

    def count_turns():
        while len(order) < 20:
            turns.append(time.monotonic())
            wait(0.001)

    counter = spawn(count_turns)
    for number in range(20):
        spawn(hold, number)
    until(lambda: len(order) == 20 and not lock.locked())
    assert len(turns) > 100, len(turns)


def a_release_that_failed_is_repeated():
    from celery_locks import StoreUnavailable
    from celery_locks.lease import release_or_later
    from celery_locks.stores.redis.store import RedisStore

    class Away(RedisStore):
        away = False
        def release(self, name, token, value=None):
            if self.away:
                raise StoreUnavailable("away")
            return super().release(name, token, value)

    store = Away(url)
    lock = Locks(store).lock("away", ttl=30)
    lease = lock.acquire()
    store.away = True
    assert release_or_later(lease)
    assert lock.locked()
    store.away = False
    until(lambda: not lock.locked())


what_keeps_the_hub_busy_keeps_its_lease()
a_loss_is_reported_by_a_greenlet()
greenlets_wait_in_line_and_the_hub_goes_on()
a_release_that_failed_is_repeated()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_promise_13_leases_of_greenlets(kind: str, redis_url: str) -> None:
    in_greenlets(kind, redis_url, CASES)
