"""Redlock: the contract as far as it is declared, and what happens when servers fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celery_locks import LockConfigError, Locks, LockTimeout, StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.redis.redlock.store import DRIFT, Redlock, with_drift, without_drift
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from celery_locks.testing import StoreCompliance
from celery_locks.testing.compliance.base import ODD_NAMES
from celery_locks.testing.compliance.limits import Limits
from tests.stores.test_exclusion import exclude_each_other
from tests.support.celery_worker import ROOT
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.redis

NAME = "p:{k}"


def url_of(ports: Sequence[int], **options: Any) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"redlock://{','.join(f'127.0.0.1:{port}' for port in ports)}/0" + (f"?{query}" if query else "")


@pytest.fixture(scope="module")
def five() -> Iterator[list[RedisServer]]:
    """Servers that the tests of this file share; none of them stops one."""
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(5)]


@pytest.fixture
def three(five: list[RedisServer]) -> Iterator[list[RedisServer]]:
    """Three of them, empty and awake."""
    for server in five:
        server.client().flushall()
    yield five[:3]
    for server in five:
        server.resume()


@pytest.fixture
def proxies(three: list[RedisServer]) -> Iterator[list[Proxy]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Proxy(server.port)) for server in three]


@pytest.fixture
def store(proxies: list[Proxy]) -> Iterator[Redlock]:
    made = Redlock(url_of([proxy.port for proxy in proxies]))
    yield made
    made.close()


class TestThree(StoreCompliance):
    short = 2.0  # servers have half of it to answer, also on a busy machine
    fence_may_grow = True  # where servers come to it that had not granted it before

    def pass_time(self, seconds: float) -> None:
        """Let time pass on all servers: on a busy machine, one of them may have got the request late."""
        time.sleep(seconds + 0.3)

    @pytest.fixture
    def store(self, three: list[RedisServer]) -> Store:
        return open_store(url_of([server.port for server in three]))

    @pytest.fixture
    def another(self, store: Store, three: list[RedisServer]) -> Store:
        return Redlock([server.client() for server in three])

    def test_held_for_and_expires_in_follow_the_clock(self, store: Store, name: str) -> None:
        """The time left is computed for the fastest clock that is allowed."""
        self.granted(store, self.claim(name))
        self.pass_time(self.short)
        begun = time.monotonic()
        (holder,) = store.holders(name)
        took = time.monotonic() - begun  # the servers are asked one after the other
        assert holder.held_for >= self.short - 0.01
        assert holder.expires_in <= self.long - self.short + 0.01
        off = holder.held_for * DRIFT + 0.1 + took
        assert holder.held_for + holder.expires_in == pytest.approx(self.long, abs=off)

    # What the suite tests with limits and lines, without them

    @pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
    def test_odd_names_and_owners(self, store: Store, another: Store, name: str, odd: str) -> None:
        claim = Claim(f"{odd}{name}{odd}", uuid.uuid4().hex, odd, self.long)
        self.granted(store, claim)
        assert self.names(another.holders(claim.name)) == [odd]
        assert another.renew([self.renewal(claim)]) == [None]
        assert another.release(claim.name, claim.token)

    def test_the_same_acquire_again_is_the_same(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        fencing_token = self.granted(store, claim)
        assert self.granted(another, claim) == fencing_token
        (holder,) = store.holders(name)
        assert holder.fencing_token == fencing_token
        assert store.release(name, claim.token)
        assert not another.release(name, claim.token)

    def test_a_lease_is_adopted_by_one(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        first = self.granted(store, claim)
        heir, late = (Claim(name, token, token, self.long, adopts=claim.token) for token in ("heir", "late"))
        assert self.granted(another, heir) > first
        self.refused(store, late)
        assert self.names(store.holders(name)) == ["heir"]

    def test_a_newcomer_replaces(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        first = self.granted(store, claim)
        assert self.granted(another, Claim(name, "new", "new", self.long, replaces=True)) > first
        assert store.renew([self.renewal(claim)]) == ["replaced"]

    def test_force_release_reports_who_held(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        assert self.names(another.force_release(name)) == [claim.owner]
        self.granted(store, self.claim(name))


@pytest.mark.slow
class TestFive(Limits):
    short = 2.0
    rounds = 5

    @pytest.fixture
    def store(self, three: list[RedisServer], five: list[RedisServer]) -> Store:
        return Redlock(url_of([server.port for server in five]))


def claim(token: str, ttl: float = 60, name: str = NAME, **options: Any) -> Claim:
    return Claim(name, token, f"owner {token}", ttl, **options)


def granted(store: Store, wanted: Claim) -> int:
    answer = store.acquire(wanted)
    assert isinstance(answer, Granted), answer
    return answer.fencing_token


def held_on(server: RedisServer, name: str = NAME) -> bool:
    """Whether anybody holds the lock on this server."""
    return bool(open_store(server.url()).holders(name))


def on_all(store: Redlock, servers: Sequence[RedisServer], token: str) -> bool:
    return [server.client().hexists(NAME, token) for server in servers] == [True] * len(servers)


def test_one_of_three_away(store: Redlock, proxies: list[Proxy]) -> None:
    proxies[0].refuse()
    first = granted(store, claim("a"))
    assert isinstance(store.acquire(claim("b")), Refused)
    assert store.renew([Renewal(NAME, "a", 60)]) == [None]
    assert [holder.token for holder in store.holders(NAME)] == ["a"]
    assert store.release(NAME, "a")
    assert granted(store, claim("b")) > first


def test_two_of_three_away(store: Redlock, proxies: list[Proxy], three: list[RedisServer]) -> None:
    granted(store, claim("a"))
    for proxy in proxies[:2]:
        proxy.refuse()
    for call in (
        lambda: store.acquire(claim("b", name="p:{other}")),
        lambda: store.release(NAME, "a"),
        lambda: store.holders(NAME),
        store.ping,
    ):
        with pytest.raises(StoreUnavailable, match="fewer than 2 of the 3 lock servers"):
            call()
    with pytest.raises(StoreUnavailable):
        store.renew([Renewal(NAME, "a", 60)])
    # What the one that is left granted is taken back.
    eventually(lambda: not held_on(three[2], "p:{other}"), 30)


def test_all_away(store: Redlock, proxies: list[Proxy]) -> None:
    granted(store, claim("a"))
    for proxy in proxies:
        proxy.refuse()
    with pytest.raises(StoreUnavailable):
        store.renew([Renewal(NAME, "a", 60)])


def test_one_that_hangs_delays_no_other(store: Redlock, three: list[RedisServer]) -> None:
    """A pair waits for none of the hanging server's time-outs; what that one was asked for meanwhile is undone."""
    with three[1].paused():
        shortest = float("inf")
        for turn in range(5):
            begun = time.monotonic()
            granted(store, claim(f"{turn}"))
            assert store.renew([Renewal(NAME, f"{turn}", 60)]) == [None]
            assert store.release(NAME, f"{turn}")
            shortest = min(shortest, time.monotonic() - begun)
        assert shortest < 2.0
    eventually(lambda: not held_on(three[1]), 30, "a straggler is left")


def test_a_reply_that_comes_late_is_taken_back(store: Redlock, proxies: list[Proxy], three: list[RedisServer]) -> None:
    """Two are away, and the third grants after nobody waited for it any more."""
    granted(store, claim("first", name="p:{warm}"))
    for proxy in proxies[:2]:
        proxy.refuse()
    with three[2].paused(), pytest.raises(StoreUnavailable):
        store.acquire(claim("late", ttl=60))
    eventually(lambda: not held_on(three[2]), 30, "a straggler is left")
    for proxy in proxies:
        proxy.heal()
    assert isinstance(eventually(lambda: _granted_or_none(store, claim("next")), 30), Granted)


def _granted_or_none(store: Store, wanted: Claim) -> Granted | None:
    answer = store.acquire(wanted)
    return answer if isinstance(answer, Granted) else None


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_promise_23_lost_replies(store: Redlock, proxies: list[Proxy], three: list[RedisServer], which: int) -> None:
    """Of each server one reply is lost: to the claim, to what agrees on the fencing token, to the release."""
    last = granted(store, claim("warm"))
    store.release(NAME, "warm")
    for proxy in proxies:
        proxy.drop_reply(after=which, command="EVALSHA")
    for turn in range(3):
        wanted = claim(f"t{turn}")
        fencing_token = eventually(lambda wanted=wanted: _granted_or_none(store, wanted), 30).fencing_token
        assert fencing_token > last
        last = fencing_token
        store.release(NAME, wanted.token)
    eventually(lambda: not any(held_on(server) for server in three), 30)


def test_a_majority_that_was_lost_is_reported(store: Redlock, three: list[RedisServer]) -> None:
    granted(store, claim("a"))
    for server in three[:2]:
        server.client().flushall()
    assert store.renew([Renewal(NAME, "a", 60)]) == ["deleted"]


def test_servers_forget_one_after_the_other(store: Redlock, three: list[RedisServer]) -> None:
    """The renewal puts the lease back, so the next loss is of one again; and the fencing token stays."""
    fencing_token = granted(store, claim("a"))
    for server in three:
        eventually(lambda: on_all(store, three, "a"), 30)
        server.client().flushall()
        assert isinstance(store.acquire(claim("b")), Refused)
        client = server.client()

        def put_back(client: Any = client) -> bool:
            assert store.renew([Renewal(NAME, "a", 60)]) == [None]
            return bool(client.hexists(NAME, "a"))

        eventually(put_back, 30, "it was not put back", 0.1)
    (holder,) = store.holders(NAME)
    assert holder.fencing_token == fencing_token
    assert store.release(NAME, "a")
    assert granted(store, claim("c")) > fencing_token


@pytest.mark.slow
def test_a_restart_with_data_lost(start_redis: Callable[..., RedisServer]) -> None:
    """Two have the lease, and one of them forgets it: its word counts only after the ``restart_delay``."""
    servers = [start_redis() for _ in range(3)]
    rash, safe, soon = (Redlock(url_of([each.port for each in servers], restart_delay=delay)) for delay in (0, 3600, 1))
    try:
        servers[2].stop()
        granted(rash, claim("a"))
        servers[2].start()
        servers[1].restart(keep_data=False)
        with pytest.raises(StoreUnavailable, match="confirmed the lease"):
            safe.acquire(claim("b"))  # the two that have just started know of no holder
        eventually(lambda: _granted_or_none(soon, claim("c")), 60)
    finally:
        for store in (rash, safe, soon):
            store.close()


def test_fencing_grows_whatever_the_clocks_say(store: Redlock, three: list[RedisServer]) -> None:
    """Each acquisition has another majority, and one server's number is far ahead, as with a clock that is."""
    three[0].client().hset(NAME, "fence", 2_000_000_000_000_000)
    three[0].client().expire(NAME, 600)
    tokens = []
    for turn in range(6):
        with three[turn % 3].paused():
            tokens.append(granted(store, claim(f"{turn}")))
            store.release(NAME, f"{turn}")
        eventually(lambda: not any(held_on(server) for server in three), 30)
    assert tokens == sorted(set(tokens))
    assert tokens[1] > 2_000_000_000_000_000


def test_a_split_vote_ends(three: list[RedisServer], store: Redlock) -> None:
    """Three of which each has one server: nobody holds, and a try of the same token afterwards succeeds."""
    for number, server in enumerate(three):
        server.client().delete(NAME)
        open_store(server.url()).acquire(claim(f"split {number}", ttl=1.0))
    answer = store.acquire(claim("a"))
    assert isinstance(answer, Refused)
    assert answer.holders == ()
    eventually(lambda: _granted_or_none(store, claim("a")), 30)


@pytest.mark.slow
def test_locks_that_block_each_other_all_get_a_turn(three: list[RedisServer], tmp_path: Path) -> None:
    exclude_each_other(url_of([server.port for server in three]), tmp_path, 1.0)


def test_locks(three: list[RedisServer]) -> None:
    locks = Locks(url_of([server.port for server in three]))
    with locks.lock("k", ttl=30) as lease:
        assert lease.remaining() > 20
        with pytest.raises(LockTimeout):
            locks.lock("k").acquire(timeout=0.1)
        assert not locks.lock("k").wait(timeout=0.1)
    assert locks.lock("k").wait(timeout=30)
    for feature in (
        lambda: locks.semaphore("s", 2),
        lambda: locks.lock("k").enqueue(),
        lambda: locks.value("k"),
        locks.list,
    ):
        with pytest.raises(LockConfigError, match="Redlock"):
            feature()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_in_a_process_of_greenlets(three: list[RedisServer], pool: str) -> None:
    url, file = url_of([server.port for server in three]), ROOT / "tests" / "stores" / "redlock_greenlets.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with three[0].paused():
        done = subprocess.run(
            [sys.executable, str(file), pool, url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert done.stdout == "held and released\n", done.stderr


def test_a_lease_lives_less_than_the_servers_keep_it(store: Redlock, three: list[RedisServer]) -> None:
    granted(store, claim("a", ttl=100))
    left = [holder.expires_in for server in three for holder in open_store(server.url()).holders(NAME)]
    assert all(100 < each <= with_drift(100) for each in left)
    assert store.holders(NAME)[0].expires_in <= 100
    assert without_drift(with_drift(30)) == pytest.approx(30)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("redlock://h1,h2/0", "three"),
        ("redlock://h1,h2,h2/0", "once"),
        ("redlock://a:x@h1,b:y@h2,h3/0", "different users"),
        ("redlock://h1,h2,h3/0?restart_delay=soon", "restart_delay"),
    ],
)
def test_addresses_that_are_wrong(url: str, match: str) -> None:
    with pytest.raises(LockConfigError, match=match):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["redlock://u:p%40ss@h1,h2:7000,[::1]/2?restart_delay=60", "valkeys+redlock://h1,h2,h3"]
)
def test_promise_21_addresses_are_opened_without_a_connection(url: str) -> None:
    assert type(open_store(url)) is Redlock


def test_its_text_names_it(store: Redlock, proxies: list[Proxy]) -> None:
    assert "a majority of 3" in store.about()
    assert store.checks()["reached"] == ""
    proxies[0].refuse()
    assert store.checks()["reached"].startswith("1 of the 3")
