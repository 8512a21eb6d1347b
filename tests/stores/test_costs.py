"""What a lock costs, in counts that no machine changes: commands, round trips and bytes in Redis, steps in memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import redis

from celery_locks import Locks, owners
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import Parked, Ticket
from celery_locks.stores.redis.store import BATCH, RedisStore
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from tests.support.servers import RedisServer

Hold = Callable[[RedisStore], None]
MINE = Claim("p:{mine}", "a" * 32, "shop.resync[0123456789ab] at web1", 60)


@pytest.fixture(scope="module")
def server() -> RedisServer:
    with RedisServer() as server:  # nobody else's commands are counted
        yield server  # type: ignore[misc]


@pytest.fixture
def store(server: RedisServer) -> RedisStore:
    server.client().flushall()
    return RedisStore(server.url())


@pytest.fixture
def asked(server: RedisServer) -> Callable[[Callable[[], object]], int]:
    """How many commands of clients a call comes to, once the server knows the scripts."""
    client = server.client()

    def count() -> int:
        stats: dict[str, dict[str, int]] = client.info("commandstats")
        return sum(stats.get(name, {"calls": 0})["calls"] for name in ("cmdstat_evalsha", "cmdstat_eval"))

    def asked(call: Callable[[], object]) -> int:
        before = count()
        call()
        return count() - before

    return asked


def warm(store: RedisStore) -> None:
    """Has the server load the scripts."""
    other = Claim("p:{other}", "b" * 32, "web1", 60)
    store.acquire(other)
    store.enter(other, Ticket("t", "message", "t"))
    store.renew([Renewal(other.name, other.token, 60)])
    store.end_run(other.name, other.token, "final", broker="")
    store.acquire(other)
    store.release(other.name, other.token)


def test_commands(store: RedisStore, asked: Callable[[Callable[[], object]], int]) -> None:
    warm(store)
    assert asked(lambda: store.acquire(MINE)) == 1
    assert asked(lambda: store.acquire(Claim(MINE.name, "c" * 32, "web2", 60), line_up=60)) == 1
    assert asked(lambda: store.enter(Claim(MINE.name, "d" * 32, "web2", 60), Ticket("d", "m", "d"))) == 1
    assert asked(lambda: store.renew([Renewal(MINE.name, MINE.token, 60)])) == 1
    assert asked(lambda: store.end_run(MINE.name, MINE.token, "final", broker="")) == 1


def test_a_lock_outside_tasks(server: RedisServer, asked: Callable[[Callable[[], object]], int]) -> None:
    lock = Locks(server.url()).lock("k", ttl=60)
    lock.acquire().release()
    assert asked(lambda: lock.acquire().release()) == 2


def test_a_renewal_of_many_is_written_in_few_round_trips(store: RedisStore, server: RedisServer) -> None:
    """The server is given something to read as often as a batch fills its buffers, not once a lease."""
    renewals = [Renewal(f"p:{{{number}}}", "a" * 32, 60) for number in range(2 * BATCH)]
    for renewal in renewals:
        assert isinstance(store.acquire(Claim(renewal.name, renewal.token, "web1", 60)), Granted)
    store.renew(renewals[:1])
    client = server.client()
    before = client.info("stats")["total_reads_processed"]
    assert store.renew(renewals) == [None] * len(renewals)
    assert client.info("stats")["total_reads_processed"] - before < len(renewals) / 10


def test_bytes_of_a_held_lock_and_of_a_waiter(store: RedisStore, server: RedisServer) -> None:
    client, many = server.client(), 5_000

    def used() -> int:
        return int(client.info("memory")["used_memory"])

    warm(store)
    before = used()
    for number in range(many):
        claim = Claim(f"celery-locks:{{user:{number:06}}}", f"{number:032x}", MINE.owner, 60)
        assert isinstance(store.acquire(claim), Granted)
    assert (used() - before) / many <= 700
    before = used()
    for number in range(many):
        ticket = Ticket(f"{number:036}", "m" * 500, f"{number:036}")
        claim = Claim("celery-locks:{user:000001}", f"waiter {number:025x}", "web1", 60)
        assert isinstance(store.enter(claim, ticket), Parked)
    version = str(client.info("server")["redis_version"])
    older = int(version.partition(".")[0]) < 7  # which keeps such hashes in more room
    assert (used() - before) / many <= (2_500 if older else 2_000)


NAME = "celery-locks:{user:12345}"
RUN = owners.running("shop.tasks.sync_user", "0f8fad5b-d9cb-469f-a165-70867728950e", "celery@worker-12.example.com")


def claim(number: int, owner: str = RUN, **options: Any) -> Claim:
    return Claim(NAME, f"{number:048x}", owner, 60, **options)


def bytes_of_records(server: RedisServer) -> int:
    """Return the bytes that the records of the lock take: all but its share of the lists over all locks."""
    client: redis.Redis = server.client()
    keys = client.keys(NAME.replace("{", "[{]") + "*")
    return sum(client.memory_usage(key, samples=0) for key in keys)


def alone(store: RedisStore) -> None:
    """One holder, that no one has competed with."""
    assert isinstance(store.acquire(claim(1)), Granted)


def contended(store: RedisStore) -> None:
    alone(store)
    assert isinstance(store.acquire(claim(2)), Refused)


def renewed(store: RedisStore) -> None:
    contended(store)
    assert store.renew([Renewal(NAME, claim(1).token, 90)]) == [None]


def waited_for(store: RedisStore) -> None:
    alone(store)
    assert isinstance(store.acquire(claim(2), line_up=60), Refused)
    store.release(NAME, claim(1).token)
    assert isinstance(store.acquire(claim(2), line_up=60), Granted)


def two_holders(store: RedisStore) -> None:
    for number in (1, 2):
        assert isinstance(store.acquire(claim(number, limit=2)), Granted)


#: How a lock came to its holders → the bytes that its records take while it is held, at most.
HELD = {alone: 500, contended: 800, renewed: 800, waited_for: 800, two_holders: 1_200}


@pytest.mark.parametrize("hold", HELD, ids=lambda hold: hold.__name__)
def test_bytes_of_a_held_and_of_a_released_key(store: RedisStore, server: RedisServer, hold: Hold) -> None:
    hold(store)
    assert bytes_of_records(server) <= HELD[hold]
    for number in (1, 2):
        store.release(NAME, claim(number).token)
        store.leave(NAME, claim(number).token)
    assert store.held(NAME) == 0
    assert bytes_of_records(server) <= 200


def test_bytes_of_a_released_key_do_not_depend_on_the_owner(store: RedisStore, server: RedisServer) -> None:
    for owner in ("", "web1", RUN, "ü" * 300):
        assert isinstance(store.acquire(claim(1, owner)), Granted)
        assert store.holders(NAME)[0].owner == owner
        store.release(NAME, claim(1).token)
        if len(owner.encode()) <= 192:
            assert bytes_of_records(server) <= 200


# --- The store in memory: no request costs more for a longer line ---


@contextmanager
def counted_lines() -> Iterator[list[int]]:
    """Count the lines of Python that this thread runs, those of comprehensions once for each element."""
    lines, before = [0], sys.gettrace()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        lines[0] += event != "call" or frame.f_code.co_name.startswith("<")
        return trace

    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def a_line(store: MemoryStore, length: int) -> None:
    """A semaphore with many holders, and behind them many waiters and parked tasks in turn."""
    for number in range(length):
        assert isinstance(store.acquire(claim(number, limit=length)), Granted)
    for number in range(length):
        store.acquire(claim(2 * length + number, limit=length), line_up=60)
        ticket = Ticket(f"{number}", "message", f"task {number}", broker="b" if number % 2 else "")
        assert isinstance(store.enter(claim(length + number, limit=length), ticket), Parked)


def requests_in_line(length: int) -> dict[str, Callable[[MemoryStore], object]]:
    last, late = claim(3 * length - 1, limit=length), claim(5 * length, limit=length)
    ticket = Ticket("late", "message", "late")
    return {
        "acquire": lambda store: store.acquire(late),
        "line up": lambda store: store.acquire(late, line_up=60),
        "ask again": lambda store: store.acquire(last, line_up=60),
        "leave": lambda store: store.leave(NAME, last.token),
        "renew": lambda store: store.renew([Renewal(NAME, claim(length // 2).token, 60)]),
        "release": lambda store: store.release(NAME, claim(length // 2).token),
        "end a run": lambda store: store.end_run(NAME, claim(length // 2 + 1).token, "final", broker=""),
        "enter": lambda store: store.enter(late, ticket),
        "withdraw": lambda store: store.withdraw("celery-locks", "", f"task {length // 2 // 2 * 2}"),
        "sweep": lambda store: store.sweep("celery-locks", "b"),
        "await due": lambda store: store.await_due("celery-locks", "b", 0.01),
        "held": lambda store: store.held(NAME),
        "holders": lambda store: store.holders(NAME),
        "waiting": lambda store: store.waiting(NAME),
        "info": lambda store: store.info(NAME),
    }


def test_a_request_in_memory_costs_the_same_in_a_long_line() -> None:
    counts: dict[int, dict[str, int]] = {}
    for length in (150, 1_500):
        store, counts[length] = MemoryStore(), {}
        a_line(store, length)
        for name, request in requests_in_line(length).items():
            with counted_lines() as lines:
                request(store)
            counts[length][name] = lines[0]
    # A search by halves may need a few steps more.
    dearer = {name: count for name, count in counts[1_500].items() if count > 1.2 * counts[150][name] + 40}
    assert not dearer, f"with a tenth of the line: {counts[150]}"


def test_a_line_in_memory_is_served_in_linear_time() -> None:
    """Sorting and copying are no lines of Python: here the time of all requests counts."""

    def seconds_for_each(length: int) -> float:
        store, begun = MemoryStore(), time.perf_counter()
        for number in range(length):
            store.acquire(claim(number), line_up=60)
        for number in range(length):
            assert store.release(NAME, claim(number).token)
            assert number + 1 == length or isinstance(store.acquire(claim(number + 1)), Granted)
        return (time.perf_counter() - begun) / length

    ratios = (seconds_for_each(8_000) / min(seconds_for_each(200) for _ in range(5)) for _ in range(5))
    assert any(ratio < 5 for ratio in ratios), "40 times as many waiters, and each costs more than 5 times as much"
