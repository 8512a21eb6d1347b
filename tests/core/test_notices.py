"""Notices of lost leases: one reader for each process and store, and hints that change nothing by themselves."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from celery_locks import Lease, LockLost, Locks, StoreUnavailable
from celery_locks._runtime import tokens
from celery_locks.aio import AsyncLocks
from celery_locks.renewal import keeper, loss_reader
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.redis.store import RedisStore
from celery_locks.testing.compliance.losses import lost_in_time
from tests.core.test_renewal_strain import in_greenlets
from tests.support.loop import on_a_loop
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

#: Seconds within which a notice comes on a slow machine, and well before any renewal of these leases.
SOON = 5.0
READER = "celery-locks-notices"


@pytest.fixture
def locks(redis_url: str) -> Iterator[Locks]:
    locks = Locks(redis_url)
    yield locks
    locks.close()


@pytest.fixture
def others(redis_url: str) -> Iterator[Locks]:
    """Like those of another process."""
    others = Locks(redis_url)
    yield others
    others.close()


@pytest.fixture
def readers() -> Callable[[], int]:
    """Return how many threads read notices for this test."""
    before = set(threading.enumerate())
    return lambda: sum(thread.name == READER for thread in set(threading.enumerate()) - before)


@pytest.fixture
def push(redis_url: str) -> Iterator[Callable[[str], None]]:
    """Return a function that sends this process a notice about a token, and waits until the reader is done with it."""
    client = redis.Redis.from_url(redis_url)

    def push(token: str) -> None:
        client.rpush(f"celery-locks:lost:{tokens.process_number()}", token)
        # What is sent after a later notice was read comes when the reader is done with this one.
        for later in (f"{token} 1", f"{token} 2"):
            client.rpush(f"celery-locks:lost:{tokens.process_number()}", later)
            eventually(lambda later=later: any(later in reader._early for reader in keeper()._readers.values()), SOON)

    yield push
    client.close()


# --- Owner tokens ---


def test_a_token_begins_with_the_number_of_its_process_and_is_random() -> None:
    made = {tokens.new_token() for _ in range(1000)}
    assert len(made) == 1000
    assert {tokens.process_of(token) for token in made} == {tokens.process_number()}
    assert all(re.fullmatch("[0-9a-f]{32}", token) for token in made)
    assert tokens.process_of("ticket:1") is None


def run(script: str, *args: str) -> None:
    """Run a Python process with the script as its program."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_forked_process_has_another_number() -> None:
    run("""
        import os
        from celery_locks._runtime import tokens
        mine = tokens.process_number()
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, tokens.new_token().encode())
            os._exit(0)
        assert os.read(read, 100).decode()[:12] != mine
        assert tokens.new_token()[:12] == mine
    """)


# --- The reader ---


def test_a_process_without_leases_has_no_reader(locks: Locks, readers: Callable[[], int]) -> None:
    locks.lock("k").holders()
    locks.lock("k").force_release()
    assert readers() == 0


def test_a_store_has_one_reader_that_ends_with_close(locks: Locks, redis_url: str, readers: Callable[[], int]) -> None:
    client = redis.Redis.from_url(redis_url)

    def reading() -> int:
        return sum(
            each["cmd"] == "blpop" and each["db"] == redis_url.rpartition("/")[2] for each in client.client_list()
        )

    for number in range(50):
        locks.lock(f"k{number}").acquire()
    assert readers() == 1
    eventually(lambda: reading() == 1, SOON)
    locks.close()
    eventually(lambda: readers() == 0, SOON / 2, "it does not wait for the end of its command")
    eventually(lambda: reading() == 0, SOON)


def test_a_store_that_is_used_after_close_has_a_reader_again(locks: Locks, others: Locks) -> None:
    for number in range(3):
        lease = locks.lock(f"k{number}", renew=False).acquire()
        with lost_in_time(lease, SOON):
            others.lock(lease.key).force_release()
        locks.close()


def test_an_idle_reader_ends_and_starts_again(
    locks: Locks, others: Locks, readers: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_reader, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(loss_reader, "LONGEST_WAIT_SECONDS", 0.05)
    for _ in range(3):
        lease = locks.lock("k", renew=False).acquire()
        assert readers() == 1
        lease.release()
        eventually(lambda: readers() == 0, SOON)
        again = locks.lock("k", renew=False).acquire()
        with lost_in_time(again, SOON):
            others.lock("k").force_release()


def test_prefixes_of_one_store_are_distinguished(redis_url: str) -> None:
    store = RedisStore(redis_url)
    some, more = Locks(store, prefix="some"), Locks(store, prefix="more")
    kept, taken = some.lock("k", renew=False).acquire(), more.lock("k", renew=False).acquire()
    with lost_in_time(taken, SOON):
        Locks(redis_url, prefix="more").lock("k").force_release()
    assert kept.held
    some.close()


def test_a_spurious_notice_changes_nothing(locks: Locks, push: Callable[[str], None]) -> None:
    lease = locks.lock("k", ttl=60, renew=False).acquire()
    ends = locks.lock("k").holders()[0].expires_in
    push(lease.token)
    push("no token")
    assert lease.held
    assert locks.lock("k").holders()[0].expires_in <= ends
    assert lease.release() is True


def test_a_notice_of_a_released_lease_changes_nothing(locks: Locks, push: Callable[[str], None]) -> None:
    lease = locks.lock("k", renew=False).acquire()
    other = locks.lock("other", renew=False).acquire()
    assert lease.release() is True
    push(lease.token)
    assert lease.lost is False
    assert other.held


def test_a_notice_that_comes_before_its_lease_is_kept_is_not_forgotten(locks: Locks, others: Locks) -> None:
    held = locks.lock("held").acquire()  # so there is a reader
    lease = locks.lock("k", renew=False)._attempt(keep=False)
    assert isinstance(lease, Lease)
    others.lock("k").force_release()
    reader = next(reader for reader in keeper()._readers.values() if reader.store is locks.store)
    eventually(lambda: lease.token in reader._early, SOON)
    keeper().keep(lease, None)
    assert lease.lost_reason == "force_released"
    assert held.held


def test_a_reader_goes_on_after_its_connection_broke(proxy: Proxy, redis_url: str) -> None:
    database = redis_url.rpartition("/")[2]
    locks, others = Locks(f"redis://127.0.0.1:{proxy.port}/{database}"), Locks(redis_url)
    lease = locks.lock("k", ttl=60, renew=False).acquire()
    eventually(lambda: "BLPOP" in proxy.commands, SOON)
    proxy.cut()
    with lost_in_time(lease, SOON):
        others.lock("k").force_release()
    locks.close()


def test_a_reader_whose_store_is_away_pauses_and_logs_once(
    locks: Locks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits = list[float]()

    class Away:
        def wait(self, timeout: float) -> list[str]:
            waits.append(timeout)
            raise StoreUnavailable("it is away")

        def close(self) -> None:
            """Does nothing."""

    monkeypatch.setattr(loss_reader, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(RedisStore, "loss_feed", lambda *_: Away())
    locks.lock("k").acquire()
    eventually(lambda: len(waits) >= 7, SOON)
    eventually(lambda: "notices of lost leases can't be read" in caplog.text, SOON)
    assert caplog.text.count("notices of lost leases can't be read") == 1


def test_notices_for_a_process_are_limited_in_number_and_time(redis_url: str) -> None:
    others = RedisStore(redis_url)
    client = redis.Redis.from_url(redis_url)
    limit = 1_500
    lock = Locks("memory://claims").semaphore("k", limit=limit)._lock_of(1)
    for _ in range(limit):
        others.acquire(replace(lock._new_claim(), name="p:{k}"))
    other = replace(lock._new_claim(), name="p:{other}")
    others.acquire(other)
    others.force_release("p:{k}")
    others.force_release("p:{other}")
    (waiting,) = client.keys("p:lost:*")
    assert client.llen(waiting) == 1_000
    assert client.lrange(waiting, -1, -1) == [other.token.encode()], "the latest are kept"
    assert 0 < client.ttl(waiting) <= 60
    assert len(client.keys("p:{k}:replaced:*")) == 1_000
    assert all(client.pttl(name) > 0 for name in client.keys("*"))


def test_a_lock_in_memory_is_lost_in_this_process() -> None:
    locks = Locks(MemoryStore())
    lease = locks.lock("k", renew=False).acquire()
    with lost_in_time(lease, SOON) as reasons:
        locks.lock("k").force_release()
    assert reasons == ["force_released"]
    locks.close()


@on_a_loop
async def test_a_block_of_asyncio_is_aborted(redis_url: str) -> None:
    locks, others = AsyncLocks(Locks(redis_url)), AsyncLocks(Locks(redis_url))

    async def work() -> None:
        async with locks.lock("k", ttl=60, abort=True):
            await others.lock("k").force_release()
            await asyncio.wait_for(asyncio.Event().wait(), SOON)

    with pytest.raises(LockLost) as caught:
        await work()
    assert caught.value.reason == "force_released"
    await locks.close()
    await others.close()


# --- Other processes ---


def test_a_forked_process_reads_its_own_notices(redis_url: str) -> None:
    run(
        """
        import os, sys, threading
        from celery_locks import Locks
        locks = Locks(sys.argv[1])
        mine = locks.lock("parent", ttl=60, renew=False).acquire()
        child = os.fork()
        if child == 0:
            lease, lost = locks.lock("child", ttl=60, renew=False).acquire(), threading.Event()
            lease.on_lost(lambda *_: lost.set())
            locks.lock("child").force_release()
            ok = lost.wait(20) and lease.lost_reason == "force_released"
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert mine.held
        lost = threading.Event()
        mine.on_lost(lambda *_: lost.set())
        locks.lock("parent").force_release()
        assert lost.wait(20)
        """,
        redis_url,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_a_greenlet_is_notified(kind: str, redis_url: str, postgresql_url: str) -> None:
    in_greenlets(
        kind,
        redis_url,
        f"""
for url in (url, {postgresql_url!r}):
    notified = []
    locks = Locks(url)
    lease = locks.lock("greenlet {kind}", ttl=600).acquire()
    lease.on_lost(lambda lease, reason: notified.append((reason, unpatched("get_ident")())))
    locks.lock("greenlet {kind}").force_release()
    until(lambda: notified)
    assert notified == [("force_released", unpatched("get_ident")())], notified
    locks.close()
""",
    )


@pytest.mark.slow
def test_an_idle_timeout_of_the_server_is_no_matter(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(options={"timeout": "1"})
    locks, others = Locks(server.url()), Locks(server.url())
    lease = locks.lock("k", ttl=60, renew=False).acquire()
    client = server.client()
    eventually(lambda: client.info("clients")["blocked_clients"] == 1, SOON)
    eventually(lambda: client.info("clients")["connected_clients"] == 2, 30, "the server cuts what is idle")
    with lost_in_time(lease, SOON):
        others.lock("k").force_release()
    locks.close()
