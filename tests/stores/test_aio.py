"""`AsyncLocks` over real stores: exclusion, cancellation at any moment, wake-ups, and very many who wait."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from celery_locks import LockLost, LockTimeout, _sansio
from celery_locks.aio import AsyncLocks
from celery_locks.aio.waits import MOST_THREADS
from celery_locks.renewal import keeper
from celery_locks.testing.local.processes import end, start
from tests.support.celery_worker import ROOT
from tests.support.clusters import Cluster
from tests.support.loop import on_a_loop, soon
from tests.support.servers import RedisServer

#: The cluster's tests run where those of test_redis_cluster.py do: it takes seconds to start.
CLUSTER = pytest.param("cluster", marks=[pytest.mark.slow, pytest.mark.redis])
STORES = (pytest.param("redis", marks=pytest.mark.redis), "sqlite", "memory", "postgresql", "mariadb", CLUSTER)
#: How much is done in a store, beside the others: each call is a round trip or many.
SHARE = {"postgresql": 0.2, "mariadb": 0.1, "cluster": 0.2}
#: Seconds after which what was forgotten would end by itself.
LONG = 300.0


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("redis_cluster")
        return cluster.url()
    if request.param in ("redis", "postgresql", "mariadb"):
        address: str = request.getfixturevalue(f"{request.param}_url")
        return address
    return "memory://" + tmp_path.name if request.param == "memory" else f"sqlite:///{tmp_path}/locks.db"


@pytest.fixture
def locks(url: str) -> AsyncLocks:
    return AsyncLocks(url, prefix=f"aio-{uuid.uuid4().hex[:8]}")  # some servers are used by other tests, too


@pytest.fixture
def share(request: pytest.FixtureRequest) -> float:
    """How much is done in this store."""
    return SHARE.get(request.node.callspec.params["url"], 1.0)


async def nothing_is_left(locks: AsyncLocks) -> None:
    async def empty() -> bool:
        stats = await locks.stats()
        return (stats.holders, stats.waiting) == (0, 0)

    await soon(empty, message="nobody holds, nobody stands in line")
    await soon(lambda: [lease for lease in keeper().leases() if lease._store is locks.store] == [])
    await locks.close()


@pytest.mark.slow
@pytest.mark.parametrize("url", [STORES[0], "sqlite", "postgresql", CLUSTER], indirect=True)
def test_coroutines_and_threads_of_several_processes_exclude_each_other(url: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    program = str(Path(__file__).with_name("aio_process.py"))
    faces = ["coroutines", "coroutines", "threads"]
    argvs = [[sys.executable, program, url, face, "10", "3", str(counter)] for face in faces]
    with (tmp_path / "said").open("wb") as output:
        processes = [start(argv, output=output, cwd=ROOT) for argv in argvs]
        try:
            assert [process.wait(100) for process in processes] == [0, 0, 0], (tmp_path / "said").read_text()
        finally:
            for process in processes:
                end(process)
    assert counter.read_text() == str(len(faces) * 10 * 3)


@pytest.mark.slow
@on_a_loop
async def test_a_thousand_cancellations_leave_nothing(
    locks: AsyncLocks, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is left behind stays for longer than is waited for it to go.
    monkeypatch.setattr(_sansio, "PLACE_KEPT_SECONDS", LONG)
    seed = random.randrange(2**32)
    print("seed:", seed)
    dice = random.Random(seed)
    keys, inside = ["a", "b", "c"], dict.fromkeys("abc", 0)

    async def hold(*held: str) -> None:
        for key in held:
            inside[key] += 1
            assert inside[key] == 1
        try:
            await asyncio.sleep(dice.uniform(0, 0.003))
        finally:
            for key in held:
                inside[key] -= 1

    async def block(key: str) -> None:
        async with locks.lock(key, ttl=LONG):
            await hold(key)

    async def try_once(key: str) -> None:
        if lease := await locks.lock(key, ttl=LONG).try_acquire():
            await lease.release()

    async def several(key: str) -> None:
        both = [key, dice.choice(keys)]
        async with locks.multi(both, ttl=LONG):
            await hold(*set(both))

    async def ticket(key: str) -> None:
        place = await locks.lock(key, ttl=LONG).enqueue()
        try:
            await place.wait(timeout=0.01)
        except LockTimeout:
            pass
        finally:
            await place.cancel()

    async def wait(key: str) -> None:
        await locks.lock(key).wait()

    async def cancel_one() -> bool:
        task = asyncio.ensure_future(dice.choice([block, block, try_once, several, ticket, wait])(dice.choice(keys)))
        await asyncio.sleep(dice.expovariate(1 / 0.01))
        was_cancelled = task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            assert task.exception() is None
        return was_cancelled

    async def user() -> None:
        nonlocal cancelled
        while cancelled < 1_000 * share:
            was_cancelled = await cancel_one()
            cancelled += was_cancelled

    cancelled = 0
    await asyncio.gather(*(user() for _ in range(25)))
    # A ticket whose making was cancelled is nobody's: what it had is given back by then, like all else.
    await nothing_is_left(locks)


@on_a_loop
async def test_a_loss_is_reported_within_a_renewal(locks: AsyncLocks) -> None:
    told = asyncio.Event()
    lease = await locks.lock("k", ttl=30, renew=0.5).acquire()
    lease.on_lost(lambda *_: told.set())
    lost = time.monotonic()
    await locks.lock("k").force_release()
    await asyncio.wait_for(told.wait(), 10)
    took = time.monotonic() - lost
    assert took < 10, f"{took:.3f} s, and not at the deadline"


@on_a_loop
async def test_a_block_is_aborted_when_its_lease_is_lost(locks: AsyncLocks) -> None:
    with pytest.raises(LockLost):  # noqa: PT012 - the block is what raises
        async with locks.lock("k", ttl=30, renew=0.2, abort=True):
            await locks.lock("k").force_release()
            await asyncio.sleep(60)
    await nothing_is_left(locks)


@on_a_loop
async def test_a_waiter_is_woken_by_the_release(locks: AsyncLocks, share: float) -> None:
    latencies = list[float]()
    for _ in range(int(20 * share)):
        lease = await locks.lock("k").acquire()
        waiter = asyncio.ensure_future(locks.lock("k").acquire())
        await soon(lambda: in_line(locks))
        await lease.release()
        released = time.monotonic()
        await (await waiter).release()
        latencies.append(time.monotonic() - released)
    # Without a wake-up it would be three seconds; how fast it is, the benchmark says.
    assert sorted(latencies)[-1 - len(latencies) // 20] < 1.5, latencies
    await nothing_is_left(locks)


async def in_line(locks: AsyncLocks) -> bool:
    return (await locks.info("k")).waiting == 1


@on_a_loop
async def test_waiting_sends_the_server_next_to_nothing(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    locks = AsyncLocks(server.url())
    lease = await locks.lock("k").acquire()
    waiters = [asyncio.ensure_future(locks.lock("k").acquire()) for _ in range(10)]
    await soon(lambda: waiting_in(locks, 10))
    with server.client() as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        await asyncio.sleep(1)  # what is measured: nothing happens in it
        sent = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    assert sent <= 15, "each says every three seconds that it still stands in line, and renewal goes on"
    for task in waiters:
        task.cancel()
    await asyncio.wait(waiters)
    await lease.release()
    await nothing_is_left(locks)


async def waiting_in(locks: AsyncLocks, number: int) -> bool:
    return (await locks.info("k")).waiting == number


@pytest.mark.slow
@on_a_loop
async def test_a_thousand_wait_without_a_thousand_threads(locks: AsyncLocks, share: float) -> None:
    crowd = int(1_000 * share)
    smtp = locks.semaphore("k", limit=50, ttl=60)
    blocker = await smtp.acquire(permits=50)
    before, served = threading.active_count(), 0

    async def use() -> None:
        nonlocal served
        async with smtp:
            served += 1

    tasks = [asyncio.ensure_future(use()) for _ in range(crowd)]
    await soon(lambda: waiting_in(locks, crowd), timeout=60)
    assert threading.active_count() - before <= MOST_THREADS + 8
    for task in tasks[::2]:
        task.cancel()
    await blocker.release()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, False] * (crowd // 2)
    assert served == crowd // 2
    await nothing_is_left(locks)
