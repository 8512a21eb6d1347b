"""``with lock.acquire(…) as lease:``, ``async with await …``: each kind of holding is released at the block's end."""

from __future__ import annotations

import asyncio
import linecache
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest

from celery_locks import Lease, LockLost, Locks, MultiLease, StoreUnavailable, lease, lock, multi, semaphore
from celery_locks.aio import AsyncLease, AsyncLocks, AsyncMultiLease
from celery_locks.aio.scope import AbortableBlock
from celery_locks.renewal import Keeper
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore
from tests.support.loop import on_a_loop, soon
from tests.support.waiting import eventually

KINDS: dict[str, Callable[[Locks], Any]] = {
    "lock.acquire": lambda locks: locks.lock("k").acquire(timeout=1),
    "lock.try_acquire": lambda locks: locks.lock("k").try_acquire(),
    "semaphore.acquire": lambda locks: locks.semaphore("k", limit=3).acquire(permits=2, timeout=1),
    "semaphore.try_acquire": lambda locks: locks.semaphore("k", limit=3).try_acquire(),
    "read_write.read": lambda locks: locks.read_write("k").read.acquire(timeout=1),
    "read_write.write": lambda locks: locks.read_write("k").write.acquire(timeout=1),
    "lockable": lambda locks: locks.lockable("<id>")("k").acquire(timeout=1),
    "multi.acquire": lambda locks: locks.multi(["k", "l"]).acquire(timeout=1),
    "multi.try_acquire": lambda locks: locks.multi(["k", "l"]).try_acquire(),
    "ticket.wait": lambda locks: locks.lock("k").enqueue().wait(timeout=1),
    "restore": lambda locks: locks.restore(locks.lock("k").acquire().serialize()),
}


async def _ticket(locks: AsyncLocks, **options: Any) -> AsyncLease:
    return await (await locks.lock("k", **options).enqueue()).wait(timeout=1)


async def _restored(locks: AsyncLocks) -> AsyncLease:
    return await locks.restore((await locks.lock("k").acquire()).serialize())


#: Those whose lock may be told to abort what runs under it.
ABORTABLE: dict[str, Callable[..., Awaitable[Any]]] = {
    "lock.acquire": lambda locks, **options: locks.lock("k", **options).acquire(timeout=1),
    "lock.try_acquire": lambda locks, **options: locks.lock("k", **options).try_acquire(),
    "semaphore.acquire": lambda locks, **options: locks.semaphore("k", 3, **options).acquire(permits=2, timeout=1),
    "semaphore.try_acquire": lambda locks, **options: locks.semaphore("k", 3, **options).try_acquire(),
    "read_write.read": lambda locks, **options: locks.read_write("k", **options).read.acquire(timeout=1),
    "read_write.write": lambda locks, **options: locks.read_write("k", **options).write.acquire(timeout=1),
    "lockable": lambda locks, **options: locks.lockable("<id>", **options)("k").acquire(timeout=1),
    "multi.acquire": lambda locks, **options: locks.multi(["k", "l"], **options).acquire(timeout=1),
    "multi.try_acquire": lambda locks, **options: locks.multi(["k", "l"], **options).try_acquire(),
    "ticket.wait": _ticket,
}
ASYNC_KINDS: dict[str, Callable[[AsyncLocks], Awaitable[Any]]] = {**ABORTABLE, "restore": _restored}


def test_each_kind_is_here_for_threads_and_for_coroutines() -> None:
    assert list(ASYNC_KINDS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
class TestEachKind:
    def test_it_is_held_within_and_released_at_the_end(self, locks: Locks, kind: str) -> None:
        acquired = KINDS[kind](locks)
        with acquired as lease:
            assert lease is acquired
            assert isinstance(lease, (Lease, MultiLease))
            assert lease.held
            assert locks.lock("k").holders()
        assert not lease.held
        assert not lease.lost
        assert not locks.lock("k").holders()
        assert not locks.lock("l").holders()

    def test_an_error_within_passes_and_it_is_released(self, locks: Locks, kind: str) -> None:
        with pytest.raises(ZeroDivisionError), KINDS[kind](locks):
            raise ZeroDivisionError
        assert not locks.lock("k").holders()

    def test_a_loss_within_is_raised_at_the_end(self, locks: Locks, kind: str, clock: MovableClock) -> None:
        with pytest.raises(LockLost) as caught, KINDS[kind](locks):
            clock.advance(30)
        assert caught.value.reason == "expired"

    def test_an_error_within_hides_the_loss(self, locks: Locks, kind: str, clock: MovableClock) -> None:
        def broken() -> None:
            clock.advance(30)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), KINDS[kind](locks):
            broken()

    def test_a_loss_that_only_the_release_finds_is_raised(self, locks: Locks, kind: str) -> None:
        with pytest.raises(LockLost) as caught, KINDS[kind](locks):
            locks.lock("k").force_release()
        assert caught.value.reason == "force_released"

    def test_it_may_be_released_within(self, locks: Locks, kind: str) -> None:
        with KINDS[kind](locks) as lease:
            assert lease.release() is True

    def test_it_ends_well_while_the_store_is_away(self, locks: Locks, kind: str, store: FaultyStore) -> None:
        with KINDS[kind](locks):
            store.go_down()
        store.come_back()
        eventually(lambda: not locks.lock("k").locked())

    @pytest.mark.parametrize("end", ["released", "lost"])
    def test_what_is_held_no_more_is_refused_at_the_beginning(
        self, locks: Locks, kind: str, clock: MovableClock, end: str
    ) -> None:
        lease = KINDS[kind](locks)
        lease.release() if end == "released" else clock.advance(30)
        with pytest.raises(LockLost, match="released" if end == "released" else "time ran out"), lease:
            pytest.fail("the block was entered")


@pytest.fixture
def aio(store: FaultyStore, clock: MovableClock) -> AsyncLocks:
    return AsyncLocks(Locks(store, clock=clock))


@pytest.mark.parametrize("kind", ASYNC_KINDS)
class TestEachKindWithAsyncio:
    @on_a_loop
    async def test_it_is_held_within_and_released_at_the_end(self, aio: AsyncLocks, kind: str) -> None:
        acquired = await ASYNC_KINDS[kind](aio)
        async with acquired as lease:
            assert lease is acquired
            assert isinstance(lease, (AsyncLease, AsyncMultiLease))
            assert lease.held
            assert await aio.lock("k").holders()
        assert not lease.held
        assert not lease.lost
        assert not await aio.lock("k").holders()
        assert not await aio.lock("l").holders()

    @on_a_loop
    async def test_an_error_within_passes_and_it_is_released(self, aio: AsyncLocks, kind: str) -> None:
        with pytest.raises(ZeroDivisionError):
            async with await ASYNC_KINDS[kind](aio):
                raise ZeroDivisionError
        assert not await aio.lock("k").holders()

    @on_a_loop
    async def test_a_loss_within_is_raised_at_the_end(self, aio: AsyncLocks, kind: str, clock: MovableClock) -> None:
        async def lose(error: Exception | None) -> None:
            async with await ASYNC_KINDS[kind](aio):
                clock.advance(30)
                if error:
                    raise error

        with pytest.raises(LockLost) as caught:
            await lose(None)
        assert caught.value.reason == "expired"
        with pytest.raises(ZeroDivisionError):  # an error of the block's own comes first
            await lose(ZeroDivisionError())

    @on_a_loop
    async def test_it_may_be_released_within(self, aio: AsyncLocks, kind: str) -> None:
        async with await ASYNC_KINDS[kind](aio) as lease:
            assert await lease.release() is True

    @on_a_loop
    async def test_it_is_released_when_the_block_is_cancelled(self, aio: AsyncLocks, kind: str) -> None:
        async def work() -> None:
            async with await ASYNC_KINDS[kind](aio):
                entered.set()
                await asyncio.sleep(60)

        entered = asyncio.Event()
        working = asyncio.ensure_future(work())
        await entered.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert not await aio.lock("k").holders()

    @on_a_loop
    async def test_what_is_held_no_more_is_refused_at_the_beginning(self, aio: AsyncLocks, kind: str) -> None:
        lease = await ASYNC_KINDS[kind](aio)
        await lease.release()
        with pytest.raises(LockLost, match="released"):
            async with lease:
                pytest.fail("the block was entered")

    @on_a_loop
    async def test_it_may_be_left_though_it_was_not_entered(self, aio: AsyncLocks, kind: str) -> None:
        """As ``AsyncExitStack.push_async_exit`` has it."""
        lease = await ASYNC_KINDS[kind](aio)
        await lease.__aexit__(None, None, None)
        assert not await aio.lock("k").holders()


@pytest.mark.parametrize("kind", ABORTABLE)
@on_a_loop
async def test_a_block_of_each_kind_is_aborted(store: FaultyStore, kind: str) -> None:
    async def work() -> None:
        async with await ABORTABLE[kind](locks, renew=0.05, abort=True):
            await locks.lock("k").force_release()
            await asyncio.sleep(60)

    locks = AsyncLocks(Locks(store))
    with pytest.raises(LockLost) as caught:
        await work()
    assert (caught.value.key, caught.value.reason) == ("k", "force_released")
    assert isinstance(caught.value.__context__, asyncio.CancelledError)
    await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ABORTABLE)
@on_a_loop
async def test_a_block_of_no_kind_is_aborted_unasked(store: FaultyStore, kind: str) -> None:
    async def work() -> None:
        async with await ABORTABLE[kind](locks, renew=0.05) as lease:
            await locks.lock("k").force_release()
            await soon(lambda: lease.lost)
            await asyncio.sleep(0.05)
            ended.set()

    locks, ended = AsyncLocks(Locks(store)), asyncio.Event()
    with pytest.raises(LockLost):
        await work()
    assert ended.is_set()


def interrupt_one_release(store: FaultyStore) -> None:
    def once() -> None:
        store.before.clear()
        raise KeyboardInterrupt

    store.before["release"] = once


def all_is_released(store: FaultyStore, keeper: Keeper) -> bool:
    return not store._locks and not keeper.leases()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "restore"])
def test_an_interrupted_release_passes_the_interrupt_on(
    locks: Locks, store: FaultyStore, keeper: Keeper, kind: str
) -> None:
    with pytest.raises(KeyboardInterrupt), KINDS[kind](locks):
        interrupt_one_release(store)
    assert eventually(lambda: all_is_released(store, keeper))


@pytest.mark.parametrize("kind", ABORTABLE)
@on_a_loop
async def test_an_interrupted_release_of_a_coroutine_passes_the_interrupt_on(
    aio: AsyncLocks, store: FaultyStore, keeper: Keeper, kind: str
) -> None:
    def stop() -> None:
        store.before.clear()
        raise Stopped

    with pytest.raises(Stopped):
        async with await ASYNC_KINDS[kind](aio):
            store.before["release"] = stop  # in a thread; a KeyboardInterrupt would end the test's loop
    await soon(lambda: all_is_released(store, keeper))


@pytest.mark.parametrize("kind", ABORTABLE)
@on_a_loop
async def test_a_block_that_is_interrupted_at_its_ends_is_released(
    aio: AsyncLocks, store: FaultyStore, keeper: Keeper, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("__init__", "close"):
        lease = await ASYNC_KINDS[kind](aio)
        plain = getattr(AbortableBlock, method)
        monkeypatch.setattr(AbortableBlock, method, stopped)
        with pytest.raises(Stopped):
            async with lease:
                pass
        monkeypatch.setattr(AbortableBlock, method, plain)
        await soon(lambda: all_is_released(store, keeper))


class Stopped(BaseException):
    """Stops a coroutine as an interrupt does, but not its loop."""


def stopped(*args: object) -> None:
    raise Stopped


def _with(made: Any) -> None:
    with made:
        pass


#: Each way to hold something for a block.
WAYS: dict[str, Callable[[Locks], None]] = {
    "a lease": lambda locks: _with(locks.lock("k").acquire()),
    "a lock": lambda locks: _with(locks.lock("k")),
    "a lock's run": lambda locks: locks.lock("k").run(int),
    "a semaphore": lambda locks: _with(locks.semaphore("k", limit=3)),
    "a semaphore's run": lambda locks: locks.semaphore("k", limit=3).run(int),
    "several leases": lambda locks: _with(locks.multi(["k", "l"]).acquire()),
    "several locks": lambda locks: _with(locks.multi(["k", "l"])),
    "several locks' run": lambda locks: locks.multi(["k", "l"]).run(int),
}
#: Not the line ``with mutex:``: at its end a tracer can strike before the mutex is unlocked, as no interrupt can.
TRACED = ("__enter__", "__exit__", "_leave", "check", "held", "run", "release_or_later", "_release")
MODULES = tuple(str(module.__file__) for module in (lease, lock, multi, semaphore))


class InterruptAtLine:
    """Interrupts the n-th line of what enters, leaves and releases.

    Python offers no way to protect the lines up to the first ``try:`` of a method that the caller's block calls; they
    are left out.
    """

    def __init__(self, number: int) -> None:
        self._left = number
        self.at = ""
        self._unprotected: set[FrameType] = set()

    @property
    def struck(self) -> bool:
        return self._left == 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in MODULES or frame.f_code.co_name not in TRACED:
            return None
        caller = frame.f_back
        if event == "call" and caller and (caller.f_code.co_filename == __file__ or caller in self._unprotected):
            self._unprotected.add(frame)
        if event != "line":
            return self
        if frame in self._unprotected:
            if linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() == "try:":
                self._unprotected.discard(frame)
            return self
        self._left -= 1
        if self.struck:
            self.at = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            raise KeyboardInterrupt
        return self


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_at_any_line_leaves_nothing_held_or_renewed(
    locks: Locks, store: FaultyStore, keeper: Keeper, way: str
) -> None:
    WAYS[way](locks)
    before, number = sys.gettrace(), 0
    while True:
        number += 1
        trace = InterruptAtLine(number)
        sys.settrace(trace)
        try:
            WAYS[way](locks)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        eventually(lambda: all_is_released(store, keeper), message=f"held after {trace.at}")
        if not trace.struck:
            break
    assert number > 10


def test_nothing_is_entered_where_nothing_was_acquired(locks: Locks, store: FaultyStore) -> None:
    store.go_down()
    with pytest.raises(StoreUnavailable), locks.lock("k").acquire(timeout=1):
        pytest.fail("the block was entered")
