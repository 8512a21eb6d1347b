"""What the current run, or the current block, holds already: an error at once, and no deadlock."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_locks import Lease, LockError, Locks, LockTimeout, owners
from celery_locks._nesting import RunScope, mark_in, mark_of_run
from celery_locks.aio import AsyncLocks
from celery_locks.stores.types import Claim
from tests.support.faulty_store import FaultyStore
from tests.support.loop import on_a_loop
from tests.support.waiting import eventually

NESTED = "would wait for itself"
#: Each way to wait for what a lease of the key "k" keeps out, without an end and with one.
WAITS: dict[str, Callable[[Locks, float | None], object]] = {
    "lock": lambda locks, timeout: locks.lock("k").acquire(timeout=timeout),
    "semaphore": lambda locks, timeout: locks.semaphore("k", 2).acquire(permits=2, timeout=timeout),
    "read": lambda locks, timeout: locks.read_write("k").write.acquire(timeout=timeout),
    "multi": lambda locks, timeout: locks.multi(["j", "k"]).acquire(timeout=timeout),
    "ticket": lambda locks, timeout: locks.lock("k").enqueue().wait(timeout=timeout),
    "wait": lambda locks, timeout: locks.lock("k").wait(timeout=timeout),
    "lockable": lambda locks, timeout: locks.lockable("<id>")("k").acquire(timeout=timeout),
}


@pytest.fixture
def locks(store: FaultyStore) -> Locks:
    """On the system's clock: waits end by it."""
    return Locks(store)


@pytest.fixture
def run_lease(locks: Locks) -> Iterator[Lease]:
    """The lease of a run under way."""
    with locks.lock("k", owner=owners.running("red", "1", "w1")).acquire() as lease:
        lease._block = None  # a run's lease is in no block
        yield lease


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("way", WAITS)
def test_what_the_current_run_holds_is_an_error_immediately(
    locks: Locks, store: FaultyStore, run_lease: Lease, way: str, timeout: float | None
) -> None:
    with RunScope(run_lease), pytest.raises(LockError, match=f"the current run holds .*'k'.* {NESTED}") as caught:
        WAITS[way](locks, timeout)
    assert caught.value.key == "k"
    assert not isinstance(caught.value, LockTimeout)
    if way != "ticket":  # that keeps its place, as after a timeout
        eventually(lambda: store.in_line(locks._space.name("k")) == 0)
    assert not locks.lock("j").locked()
    assert run_lease.held


def test_another_store_of_the_same_place_is_known_by_the_token(locks: Locks, run_lease: Lease) -> None:
    class Elsewhere(FaultyStore):
        """The same leases, by another object: each `Locks(url)` may open one."""

        def __init__(self) -> None:
            vars(self).update(vars(locks.store))

    with RunScope(run_lease), pytest.raises(LockError, match=NESTED):
        Locks(Elsewhere()).lock("k").acquire()


def test_a_single_try_answers_as_ever(locks: Locks, run_lease: Lease) -> None:
    with RunScope(run_lease):
        assert locks.lock("k").try_acquire() is None
        with pytest.raises(LockTimeout):
            locks.lock("k").acquire(timeout=0)
        assert locks.multi(["j", "k"]).try_acquire() is None
        ticket = locks.lock("k").enqueue()
        assert ticket.position == 0
        ticket.cancel()


@pytest.mark.parametrize("way", [way for way in WAITS if way != "wait"])
def test_a_block_of_this_thread_counts_where_the_wait_has_no_end(locks: Locks, way: str) -> None:
    with locks.lock("k"):
        with pytest.raises(LockError, match=f"this block holds .*'k'.* {NESTED}"):
            WAITS[way](locks, None)
        with pytest.raises(LockTimeout):
            WAITS[way](locks, 0.01)
    assert locks.lock("k").try_acquire() is not None or way == "ticket"


def test_what_may_end_by_itself_or_by_others_is_waited_for(locks: Locks, store: FaultyStore) -> None:
    def freed_while_waiting(lease: Lease) -> None:
        waiting = threading.Timer(0.05, lease.release)
        waiting.start()
        locks.lock("k").acquire().release()
        waiting.join()

    freed_while_waiting(locks.lock("k").acquire())  # in no block: another thread may release it
    with locks.lock("k", renew=False) as lease:
        freed_while_waiting(lease)
    with locks.lock("k", max_hold=60) as lease:
        freed_while_waiting(lease)


def test_a_block_of_another_thread_is_waited_for(locks: Locks) -> None:
    leave, entered, context = threading.Event(), threading.Event(), list[contextvars.Context]()

    def hold() -> None:
        with locks.lock("k"):
            context.append(contextvars.copy_context())
            entered.set()
            leave.wait(30)

    holding = threading.Thread(target=hold)
    holding.start()
    assert entered.wait(30)
    threading.Timer(0.05, leave.set).start()
    context[0].run(lambda: locks.lock("k").acquire().release())
    holding.join()


def test_permits_that_others_hold_are_waited_for(locks: Locks, run_lease: Lease) -> None:
    held = locks.semaphore("k", 3).acquire(permits=2)
    threading.Timer(0.05, held.release).start()
    with RunScope(run_lease):
        locks.semaphore("k", 3).acquire(permits=2).release()
        with pytest.raises(LockError, match=r"holds 1 of the 3 permits of 'k' .* 3 more"):
            locks.semaphore("k", 3).acquire(permits=3)


def test_a_run_is_known_among_more_holders_than_are_named(locks: Locks, store: FaultyStore) -> None:
    for number in range(120):
        store.acquire(Claim(locks._space.name("k"), f"other {number}", "other", 30, 1000))
    lease = locks.semaphore("k", 1000).acquire()
    with RunScope(lease), pytest.raises(LockError, match=NESTED):
        locks.semaphore("k", 1000).acquire(permits=1000)


def test_threads_with_a_copied_context_see_the_run_and_others_do_not(locks: Locks, run_lease: Lease) -> None:
    errors = list[str]()

    def wait() -> None:
        try:
            locks.lock("k").acquire(timeout=0.05)
        except LockError as error:
            errors.append(type(error).__name__)

    with RunScope(run_lease):
        for target in (contextvars.copy_context().run, lambda function: function()):
            thread = threading.Thread(target=target, args=(wait,))
            thread.start()
            thread.join()
    assert errors == ["LockError", "LockTimeout"]


def test_after_the_run_its_key_is_waited_for(locks: Locks) -> None:
    lease = locks.lock("k").acquire()
    with RunScope(lease):
        context = contextvars.copy_context()
    lease.release()
    other = locks.lock("k").acquire()
    threading.Timer(0.05, other.release).start()
    context.run(lambda: locks.lock("k").acquire().release())


def test_the_outer_run_of_a_nested_one_counts(locks: Locks, run_lease: Lease) -> None:
    with RunScope(run_lease), locks.lock("inner").acquire() as inner:
        inner._block = None
        with RunScope(inner), pytest.raises(LockError, match=NESTED):
            locks.lock("k").acquire()


def test_a_lock_within_a_run_is_named_after_it(locks: Locks, run_lease: Lease) -> None:
    with RunScope(run_lease), locks.lock("j") as lease:
        (holder,) = locks.lock("j").holders()
        assert holder.owner == "red[1] in its body on w1"
        assert (holder.task_name, holder.task_id, holder.worker, holder.state) == ("red", "1", "w1", "held")
        assert owners.task_id_of(holder.owner) is None  # the task does not end when this lease does
        assert mark_in(lease.token) == mark_of_run(run_lease.token)
        assert locks.lock("l", owner="mine").acquire().owner == "mine"
    assert mark_in(run_lease.token) is None
    assert locks.lock("j").acquire().owner != lease.owner


@on_a_loop
async def test_asyncio_counts_by_its_tasks(store: FaultyStore, run_lease: Lease) -> None:
    locks = AsyncLocks(Locks(store))

    async def wait(key: str) -> None:
        (await locks.lock(key).acquire()).plain.release()

    with RunScope(run_lease):
        for waiting in (wait("k"), asyncio.ensure_future(wait("k"))):  # also a task that the run starts
            with pytest.raises(LockError, match=NESTED):
                await asyncio.wait_for(waiting, 30)
    async with locks.lock("j"):
        with pytest.raises(LockError, match=f"this block .* {NESTED}"):
            async with locks.lock("j"):
                pytest.fail("it was entered twice")
        other: asyncio.Task[Any] = asyncio.ensure_future(wait("j"))  # it waits until this block has ended
        await asyncio.sleep(0)
    await asyncio.wait_for(other, 30)
