"""Redlock: claims that adopt or replace a lease. One that fails has taken nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.stores.base import Claim, Granted, Refused, Renewal, Value
from celery_locks.stores.redis.member import Member
from celery_locks.stores.redlock import Redlock
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.redis

NAME = "p:{k}"
TTL = 60.0


@pytest.fixture(scope="module")
def all_servers() -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(3)]


@pytest.fixture
def servers(all_servers: list[RedisServer]) -> Iterator[list[RedisServer]]:
    for server in all_servers:
        server.client().flushall()
    yield all_servers
    for server in all_servers:
        server.resume()


@pytest.fixture
def store(servers: list[RedisServer]) -> Iterator[Redlock]:
    """The holder's."""
    made = redlock(servers)
    yield made
    made.close()


@pytest.fixture
def other(servers: list[RedisServer]) -> Iterator[Redlock]:
    """The newcomer's."""
    made = redlock(servers)
    yield made
    made.close()


def redlock(servers: list[RedisServer]) -> Redlock:
    return Redlock([server.url() for server in servers])


def claim(token: str, **options: Any) -> Claim:
    return Claim(NAME, token, f"owner {token}", TTL, **options)


def lose_replies(store: Redlock, method: str, members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose one reply of each of so many servers: what was asked for is done there."""

    def lose_one(member: Member) -> None:
        real, lost = getattr(member, method), list[bool]()

        def call(*args: Any) -> Any:
            answer = real(*args)
            if not lost:
                lost.append(True)
                raise StoreUnavailable("the reply was lost")
            return answer

        monkeypatch.setattr(member, method, call)

    for member in store._members[:members]:
        lose_one(member)


TAKE: list[dict[str, Any]] = [{"replaces": True}, {"adopts": "old"}, {"adopts": "old", "replaces": True}]
takes = pytest.mark.parametrize("take", TAKE, ids=["replaces", "adopts", "adopts or replaces"])


def is_as_before(store: Redlock, servers: list[RedisServer], fencing_token: int) -> bool:
    """Whether the first holder has its lease on all servers, with its fencing token."""
    for server in servers:
        held = [(holder.token, holder.fencing_token) for holder in Member(server.url()).holders(NAME)]
        assert held == [("old", fencing_token)]
    (holder,) = store.holders(NAME)
    assert holder.owner == "owner old"
    assert holder.expires_in <= TTL
    return store.renew([Renewal(NAME, "old", TTL)]) == [None]


@takes
@pytest.mark.parametrize(("step", "members"), [("acquire", 2), ("acquire", 3), ("confirm", 2)])
def test_replies_that_are_lost(
    store: Redlock,
    other: Redlock,
    servers: list[RedisServer],
    take: dict[str, Any],
    step: str,
    members: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    granted = store.acquire(claim("old"))
    assert isinstance(granted, Granted)
    lose_replies(other, step, members, monkeypatch)
    with pytest.raises(StoreUnavailable):
        other.acquire(claim("new", **take))
    eventually(lambda: is_as_before(store, servers, granted.fencing_token), 30)
    assert isinstance(store.acquire(claim("late")), Refused)
    assert isinstance(other.acquire(claim("next", **take)), Granted)  # nothing of the failed one is in its way


@takes
def test_servers_that_hang(store: Redlock, other: Redlock, servers: list[RedisServer], take: dict[str, Any]) -> None:
    granted = store.acquire(claim("old"))
    assert isinstance(granted, Granted)
    with servers[0].paused(), servers[1].paused(), pytest.raises(StoreUnavailable):
        other.acquire(claim("new", **take))
    eventually(lambda: is_as_before(store, servers, granted.fencing_token), 30)


@takes
def test_one_server_is_away(store: Redlock, other: Redlock, servers: list[RedisServer], take: dict[str, Any]) -> None:
    granted = store.acquire(claim("old"))
    assert isinstance(granted, Granted)
    with servers[0].paused():
        new = other.acquire(claim("new", **take))
        assert isinstance(new, Granted)
        assert new.fencing_token > granted.fencing_token
        assert store.renew([Renewal(NAME, "old", TTL)]) == ["stolen" if "adopts" in take else "replaced"]


def test_a_holder_that_comes_in_between_is_replaced_as_well(
    store: Redlock, other: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.acquire(claim("old"))
    ask, asked = other._displaced, list[str]()

    def then_another(wanted: Claim) -> Any:
        seen = ask(wanted)
        if not asked:
            asked.append("once")
            store.release(NAME, "old")
            assert isinstance(store.acquire(claim("between")), Granted)
        return seen

    monkeypatch.setattr(other, "_displaced", then_another)
    assert isinstance(other.acquire(claim("new", replaces=True)), Granted)
    assert store.renew([Renewal(NAME, "between", TTL)]) == ["replaced"]


def test_who_comes_in_between_keeps_its_lease_when_the_attempt_fails(
    store: Redlock, other: Redlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.acquire(claim("old"))
    ask = other._displaced

    def then_another(wanted: Claim) -> Any:
        seen = ask(wanted)
        store.release(NAME, "old")
        assert isinstance(store.acquire(claim("between")), Granted)
        return seen

    monkeypatch.setattr(other, "_displaced", then_another)
    assert isinstance(other.acquire(claim("new", adopts="old")), Refused)
    assert store.renew([Renewal(NAME, "between", TTL)]) == [None]


def test_many_replace_each_other(servers: list[RedisServer]) -> None:
    """At the end one of them holds: nobody is left with a minority."""
    stores = [redlock(servers) for _ in range(3)]
    try:
        for turn in range(3):
            for number, each in enumerate(stores):
                assert isinstance(each.acquire(claim(f"{turn}-{number}", replaces=True)), Granted)
        (holder,) = stores[0].holders(NAME)
        assert holder.token == "2-2"
    finally:
        for each in stores:
            each.close()


@pytest.mark.parametrize("call", ["extend", "restore"])
def test_nothing_is_known_of_a_lease_whose_majority_hangs(servers: list[RedisServer], call: str) -> None:
    locks = Locks(redlock(servers))
    lease = locks.lock("k", ttl=TTL).acquire()
    text = lease.serialize()
    calls: dict[str, Callable[[], object]] = {"extend": lease.extend, "restore": lambda: locks.restore(text)}
    with servers[1].paused(), servers[2].paused(), pytest.raises(StoreUnavailable):
        calls[call]()
    assert lease.held
    assert lease.release()


def test_what_a_majority_can_not_do(store: Redlock) -> None:
    store.acquire(claim("a"))
    with pytest.raises(LockConfigError, match="values"):
        store.release(NAME, "a", Value("1", 60))
    with pytest.raises(LockConfigError, match="limits"):
        store.shrink(NAME, "a", 1)
    with pytest.raises(LockConfigError, match="max_waiters"):
        store.acquire(claim("b", max_waiters=1))
    assert store.release(NAME, "a")
