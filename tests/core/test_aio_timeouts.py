"""Coroutines whose store hangs: their timeouts hold, and the process ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from celery_locks import StoreUnavailable
from celery_locks._runtime.clock import system_clock
from celery_locks.aio import AsyncLocks
from celery_locks.aio import driver as aio_driver
from celery_locks.aio.workers import Workers
from celery_locks.renewal import keeper
from celery_locks.stores.listing import NameRange
from celery_locks.stores.sqlite import SQLiteStore
from tests.support.faulty_store import FaultyStore
from tests.support.loop import on_a_loop, soon

PATIENCE = 60.0


class Hang:
    """Keeps those who call it, until it ends."""

    def __init__(self) -> None:
        self.calls = 0
        self._end = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self._end.wait(PATIENCE)

    def end(self) -> None:
        self._end.set()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def locks(store: FaultyStore) -> AsyncLocks:
    return AsyncLocks(store)


@pytest.fixture
def hang() -> Iterator[Hang]:
    made = Hang()
    yield made
    made.end()


async def error_of(call: object) -> BaseException | None:
    try:
        await call  # type: ignore[misc]
    except Exception as error:
        return error
    return None


@on_a_loop
async def test_a_hundred_timeouts_hold(locks: AsyncLocks, store: FaultyStore, hang: Hang) -> None:
    store.before["acquire"], granted = hang, list[None]()
    begun = time.monotonic()
    errors = await asyncio.gather(*(error_of(locks.lock(f"{i}").acquire(timeout=0.5)) for i in range(100)))
    assert time.monotonic() - begun < 0.5 + aio_driver.ANSWER_PATIENCE_SECONDS + 1
    assert {type(error) for error in errors} == {StoreUnavailable}
    store.come_back()
    store.after["acquire"] = lambda: granted.append(None)
    hang.end()
    # Those that had not begun never did; those that had are granted, and released.
    await soon(lambda: store.calls.count("acquire") == hang.calls == aio_driver.THREADS == len(granted))
    await soon(lambda: not any(store.holders(locks.lock(f"{i}").plain._name) for i in range(100)))
    await soon(lambda: keeper().leases() == [])


@on_a_loop
async def test_a_request_whose_caller_has_gone_is_never_made(locks: AsyncLocks, store: FaultyStore, hang: Hang) -> None:
    store.before["acquire"] = hang
    stuck = [asyncio.ensure_future(locks.lock(f"{i}").acquire()) for i in range(aio_driver.THREADS)]
    await soon(lambda: hang.calls == aio_driver.THREADS)
    queued = [asyncio.ensure_future(locks.lock(f"queued {i}").acquire()) for i in range(20)]
    await asyncio.sleep(0)
    for task in queued:
        task.cancel()
    assert all(
        isinstance(answer, asyncio.CancelledError) for answer in await asyncio.gather(*queued, return_exceptions=True)
    )
    store.come_back()
    hang.end()
    for lease in await asyncio.gather(*stuck):
        await lease.release()
    assert store.calls.count("acquire") == aio_driver.THREADS


@on_a_loop
async def test_what_was_granted_too_late_is_released(locks: AsyncLocks, store: FaultyStore, hang: Hang) -> None:
    store.before["acquire"] = hang
    assert isinstance(await error_of(locks.lock("k").acquire(timeout=0)), StoreUnavailable)
    store.come_back()
    hang.end()
    await soon(lambda: "release" in store.calls and not locks.lock("k").plain.locked())
    assert keeper().leases() == []


@on_a_loop
async def test_no_request_holds_up_what_cleans_up(locks: AsyncLocks, store: FaultyStore, hang: Hang) -> None:
    lease = await locks.lock("k").acquire()
    waiting = asyncio.ensure_future(locks.lock("k").acquire())
    await soon(lambda: store.in_line(locks.lock("k").plain._name) == 1)
    store.before["holders"] = hang
    stuck = [asyncio.ensure_future(locks.lock("other").holders()) for _ in range(2 * aio_driver.THREADS)]
    await soon(lambda: hang.calls == aio_driver.THREADS)
    waiting.cancel()
    await soon(lambda: store.in_line(locks.lock("k").plain._name) == 0)
    hang.end()
    await asyncio.gather(*stuck)
    await lease.release()


@on_a_loop
async def test_close_ends_the_threads(locks: AsyncLocks) -> None:
    before = set(threading.enumerate())
    async with locks.lock("k"):
        waiting = asyncio.ensure_future(locks.lock("k").acquire())
        await asyncio.sleep(0.05)
    await (await waiting).release()
    names = "celery-locks-aio", "celery-locks-waits"
    ours = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith(names)]
    assert {thread.name for thread in ours} == set(names)
    await locks.close()
    await soon(lambda: not any(thread.is_alive() for thread in ours), aio_driver.CANCEL_PATIENCE_SECONDS)
    async with locks.lock("k"):  # it may be used again
        pass
    await locks.close()


PROGRAM = """
import asyncio, sys, threading
from celery_locks.aio import AsyncLocks
from tests.support.faulty_store import FaultyStore

store = FaultyStore()

async def main():
    locks = AsyncLocks(store)
    store.before["{method}"] = threading.Event().wait
    tasks = [asyncio.ensure_future(locks.lock(f"{{i}}").{method}()) for i in range(100)]
    while "{method}" not in store.calls:
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.mark.parametrize("method", ["acquire", "holders"])
def test_the_process_ends_while_its_store_hangs(method: str) -> None:
    begun = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    argv = [sys.executable, "-c", PROGRAM.format(method=method)]
    subprocess.run(argv, env=environment, check=True, timeout=PATIENCE, capture_output=True)
    assert time.monotonic() - begun < 5 + 5  # what a busy machine takes to start it


RELEASE = """
import asyncio, sys, time
from celery_locks.aio import AsyncLocks
from celery_locks.stores.sqlite import SQLiteStore

async def main():
    lease = await AsyncLocks(SQLiteStore(sys.argv[1])).lock("k", ttl=60).acquire()
    lease.plain._store.release = slowly(lease.plain._store.release)
    asyncio.ensure_future(lease.release())
    await asyncio.sleep(0.01)

def slowly(release):
    def call(*args):
        time.sleep(0.1)
        return release(*args)
    return call

asyncio.run(main())
"""


def test_a_release_that_is_under_way_at_the_end_is_made(tmp_path: Path) -> None:
    path = str(tmp_path / "locks.db")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", RELEASE, path], env=environment, check=True, timeout=PATIENCE)
    assert SQLiteStore(path).page(NameRange("celery-locks", "celery-locks:", "", 10)).items == ()


class TestWorkers:
    def test_no_more_threads_than_needed(self) -> None:
        workers, names = Workers(4, "few"), set[str]()
        for _ in range(20):
            workers.submit(lambda: names.add(threading.current_thread().name)).result(PATIENCE)
        assert names == {"few"}
        assert workers._threads == 1

    def test_errors_are_answers(self) -> None:
        workers = Workers(1, "errors")
        with pytest.raises(ZeroDivisionError):
            workers.submit(lambda: 1 / 0).result(PATIENCE)
        assert workers.submit(lambda: 1).result(PATIENCE) == 1

    def test_it_goes_on_after_close(self) -> None:
        workers = Workers(2, "closed")
        for _ in range(3):
            assert workers.submit(lambda: 1).result(PATIENCE) == 1
            workers.close()

    def test_drain_waits_for_what_is_queued(self) -> None:
        workers, done = Workers(1, "drained"), list[int]()

        def work(number: int) -> None:
            time.sleep(0.05)
            done.append(number)

        for number in range(3):
            workers.submit(partial(work, number))
        workers.drain(system_clock.now() + PATIENCE)
        assert done == [0, 1, 2]
