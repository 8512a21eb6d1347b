"""Requests, threads, forks and event loops leave nothing behind once their locks are closed (promise 42)."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from celery_locks import Locks, LockTimeout
from celery_locks.aio import AsyncLocks
from celery_locks.renewal import keeper
from tests.support.loop import soon
from tests.support.waiting import eventually

#: How many requests, threads or loops there are.
MANY = 10
PATIENCE = 10.0
#: One each for a process: it watches the deadlines of all stores.
SHARED_THREADS = ("celery-locks-watch",)

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no list of open files on this system")


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.redis), "sqlite", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        address: str = request.getfixturevalue("redis_url")
        return address
    return f"memory://{tmp_path.name}" if request.param == "memory" else f"sqlite:///{tmp_path}/locks.db"


@pytest.fixture
def prefix() -> str:
    """That of this test alone: some servers are used by other tests, too."""
    return f"grows-{uuid.uuid4().hex[:8]}"


#: The threads that earlier tests in this process have left.
_of_other_tests: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _other_tests_threads() -> None:
    _of_other_tests.clear()
    _of_other_tests.update(threading.enumerate())


def resources() -> tuple[int, int, int]:
    """Return how many threads of ours, open files, and leases that are watched this process has."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("celery-locks")]
    threads = sum(thread.name not in SHARED_THREADS and thread not in _of_other_tests for thread in ours)
    return threads, len(os.listdir("/proc/self/fd")), len(keeper().leases())


def settled() -> tuple[int, int, int]:
    """Return the resources once the threads of closed locks have ended, and what they used is closed."""
    eventually(lambda: resources()[0] == 0, PATIENCE, "a thread of closed locks is left")
    return resources()


def assert_no_more_than(before: tuple[int, int, int]) -> None:
    def no_more() -> bool:
        now = resources()
        assert all(left <= then for left, then in zip(now, before, strict=True)), f"{now}, which was {before}"
        return True

    eventually(no_more, PATIENCE, "threads, files or leases are left")


def use(locks: Locks, key: str) -> None:
    """Acquire, renew, refuse, wait and release."""
    with locks.lock(key, renew=0.02) as lease:
        confirmed = lease._confirmed
        assert locks.lock(key).try_acquire() is None
        with pytest.raises(LockTimeout):
            locks.lock(key).acquire(timeout=0.02)
        eventually(lambda: lease._confirmed > confirmed, PATIENCE)


async def use_async(locks: AsyncLocks, key: str) -> None:
    """As `use`, in a coroutine; and cancel one that waits."""
    async with locks.lock(key, renew=0.02):
        with pytest.raises(LockTimeout):
            await locks.lock(key).acquire(timeout=0.02)
        waiting = asyncio.ensure_future(locks.lock(key).acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])


def once_then_often(work: Callable[[], None], times: int = MANY) -> None:
    """Do some work once, for what a process makes only once, then often: there must be no more left than before."""
    work()
    before = settled()
    for _ in range(times):
        work()
    assert_no_more_than(before)


def test_promise_42_locks_for_each_request(url: str, prefix: str) -> None:
    def request() -> None:
        with closing(Locks(url, prefix=prefix)) as locks:
            use(locks, "k")

    once_then_often(request)


def test_promise_42_a_burst_of_threads(url: str, prefix: str) -> None:
    def burst() -> None:
        with closing(Locks(url, prefix=prefix)) as locks:
            threads = [threading.Thread(target=use, args=(locks, f"{number}")) for number in range(MANY)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)

    burst()
    before = settled()
    burst()
    assert_no_more_than(before)


def test_promise_42_an_event_loop_for_each_request(url: str, prefix: str) -> None:
    async def request() -> None:
        locks = AsyncLocks(url, prefix=prefix)
        await use_async(locks, "k")
        await locks.close()

    once_then_often(lambda: asyncio.run(asyncio.wait_for(request(), PATIENCE)))


def test_promise_42_an_event_loop_for_each_request_on_the_same_locks(url: str, prefix: str) -> None:
    def loops() -> None:
        locks = AsyncLocks(url, prefix=prefix)
        for _ in range(MANY):
            asyncio.run(asyncio.wait_for(use_async(locks, "k"), PATIENCE))
        asyncio.run(locks.close())

    loops()
    before = settled()
    loops()
    assert_no_more_than(before)


def test_promise_42_loops_in_threads(url: str, prefix: str) -> None:
    def burst() -> None:
        async def work(number: int) -> None:
            await asyncio.wait_for(use_async(locks, f"{number}"), PATIENCE)

        locks = AsyncLocks(url, prefix=prefix)
        threads = [threading.Thread(target=asyncio.run, args=(work(number),)) for number in range(MANY)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        asyncio.run(locks.close())

    burst()
    before = settled()
    burst()
    assert_no_more_than(before)


def test_promise_42_a_forked_child_leaves_nothing_and_takes_nothing(url: str, prefix: str) -> None:
    """The child has the parent's locks, and some of its own; the parent's lease is renewed all the while."""
    locks = Locks(url, prefix=prefix)
    lease = locks.lock("parent", renew=0.02).acquire()

    def child() -> None:
        assert resources()[0] == 0, "threads are of one process"
        assert resources()[2] == 0, "a lease is its own process's"
        if locks.store.shared:
            assert locks.lock("parent").try_acquire() is None
        once_then_often(lambda: in_child_of(locks, url, prefix), 3)

    def fork() -> None:
        assert in_fork(child) == 0
        confirmed = lease._confirmed
        eventually(lambda: lease._confirmed > confirmed, PATIENCE)

    fork()
    before = resources()
    fork()
    assert_no_more_than(before)
    assert lease.release()
    locks.close()


def in_child_of(locks: Locks, url: str, prefix: str) -> None:
    use(locks, "child")
    locks.close()
    with closing(Locks(url, prefix=prefix)) as own:
        use(own, "child")
    loops = AsyncLocks(url, prefix=prefix)

    async def request() -> None:
        await use_async(loops, "child")
        await loops.close()

    asyncio.run(asyncio.wait_for(request(), PATIENCE))


def test_promise_42_a_fork_while_coroutines_wait(url: str, prefix: str) -> None:
    """The child has none of the parent's loop, threads and places in line; closing there ends nothing here."""

    async def work() -> None:
        lease = await locks.lock("k").acquire()
        waiting = asyncio.ensure_future(locks.lock("k").acquire())
        await soon(lambda: in_line(locks))
        status = await asyncio.get_running_loop().run_in_executor(None, in_fork, close)
        assert status == 0
        await lease.release()
        await (await waiting).release()

    def close() -> None:
        assert resources()[0] == 0
        locks.plain.close()

    locks = AsyncLocks(url, prefix=prefix)
    asyncio.run(asyncio.wait_for(work(), PATIENCE))
    asyncio.run(locks.close())


async def in_line(locks: AsyncLocks) -> bool:
    return (await locks.info("k")).waiting == 1


def in_fork(work: Callable[[], None]) -> int:
    """Return the exit code of a child that does some work."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
