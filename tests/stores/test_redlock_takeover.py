"""Redlock: claims that adopt or replace a lease. One that fails has taken nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from threading import Event
from time import monotonic
from typing import Any

import pytest
import redis

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.commands import evalsha
from celery_locks.stores.redis.redlock import Redlock
from celery_locks.stores.redis.redlock.member import Member
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.protocol import Command
from celery_locks.stores.types import Claim, Granted, Refused, Renewal, Value
from tests.support.proxy import Proxy
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
@pytest.mark.parametrize(("step", "members"), [("take", 2), ("take", 3), ("confirm", 2)])
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
def test_a_claim_that_can_not_end_the_lease_it_takes_is_taken_back(
    store: Redlock, other: Redlock, take: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise StoreUnavailable("cut off")

    assert isinstance(store.acquire(claim("old")), Granted)
    for member in other._members[:2]:
        monkeypatch.setattr(member, "settle", fail)
    with pytest.raises(StoreUnavailable, match="ended the lease"):
        other.acquire(claim("new", **take))
    eventually(lambda: store.renew([Renewal(NAME, "old", TTL)]) == [None], 30)
    assert isinstance(other.acquire(claim("late")), Refused)


@takes
def test_one_server_is_away(store: Redlock, other: Redlock, servers: list[RedisServer], take: dict[str, Any]) -> None:
    granted = store.acquire(claim("old"))
    assert isinstance(granted, Granted)
    with servers[0].paused():
        new = other.acquire(claim("new", **take))
        assert isinstance(new, Granted)
        assert new.fencing_token > granted.fencing_token
        assert store.renew([Renewal(NAME, "old", TTL)]) == ["stolen" if "adopts" in take else "replaced"]


class Network:
    """A newcomer whose way to each server can fail, while the holder's does not.

    Args:
        servers: The servers.
    """

    def __init__(self, servers: list[RedisServer]) -> None:
        self._stack = ExitStack()
        self.proxies = [self._stack.enter_context(Proxy(server.port)) for server in servers]
        self.store = Redlock([f"redis://127.0.0.1:{proxy.port}/0" for proxy in self.proxies])
        self._stack.callback(self.store.close)

    def lose_replies_and_refuse(self, script: Script, members: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lose both replies of a script at some servers, which from then on can't be reached from here."""
        for proxy, member in list(zip(self.proxies, self.store._members, strict=True))[:members]:
            proxy.drop_reply(2, holding=[script.sha])
            monkeypatch.setattr(member, "_twice", _then(member._twice, proxy))

    def heal(self) -> None:
        for proxy in self.proxies:
            proxy.heal()

    def close(self) -> None:
        self._stack.close()


def _then(call: Callable[..., Any], proxy: Proxy) -> Callable[..., Any]:
    def and_then_refuse(*args: Any) -> Any:
        try:
            return call(*args)
        except StoreUnavailable:
            proxy.refuse()
            raise

    return and_then_refuse


@pytest.fixture
def network(servers: list[RedisServer]) -> Iterator[Network]:
    made = Network(servers)
    yield made
    made.close()


STEPS = {"claim": scripts.TAKE, "confirm": scripts.CONFIRM}
steps = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())


@takes
@steps
@pytest.mark.parametrize("members", [1, 2, 3])
def test_a_newcomer_that_is_cut_off_releases_the_lease_afterwards(
    store: Redlock,
    network: Network,
    servers: list[RedisServer],
    take: dict[str, Any],
    step: Script,
    members: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it asked for was done, and it can't undo that before its network is back."""
    granted = store.acquire(claim("old"))
    assert isinstance(granted, Granted)
    network.lose_replies_and_refuse(step, members, monkeypatch)
    with suppress(StoreUnavailable):
        assert isinstance(network.store.acquire(claim("new", **take)), Granted)
        assert members == 1
        return
    with suppress(StoreUnavailable):  # while nothing is known of it, which is no loss
        assert store.renew([Renewal(NAME, "old", TTL)]) == [None]
    assert isinstance(store.acquire(claim("third")), Refused)
    network.heal()
    eventually(lambda: is_as_before(store, servers, granted.fencing_token), 30)
    assert store.release(NAME, "old")
    assert isinstance(store.acquire(claim("third")), Granted)


@takes
def test_the_key_stays_held_until_the_holders_deadline(
    store: Redlock, network: Network, take: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease of a newcomer that never returns is shorter than that of the holder, which lives."""
    assert isinstance(store.acquire(claim("old")), Granted)
    network.lose_replies_and_refuse(scripts.TAKE, 3, monkeypatch)
    begun = monotonic()
    with pytest.raises(StoreUnavailable):
        network.store.acquire(replace(claim("new", **take), ttl=0.5))
    while monotonic() < begun + 1:
        assert isinstance(store.acquire(claim("third")), Refused)
    assert store.release(NAME, "old"), "it was the holder's until now"
    network.heal()
    eventually(lambda: isinstance(store.acquire(claim("third")), Granted), 30)


@takes
def test_a_lease_that_was_released_meanwhile_is_not_put_back(
    store: Redlock, network: Network, take: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(store.acquire(claim("old")), Granted)
    network.lose_replies_and_refuse(scripts.TAKE, 2, monkeypatch)
    with pytest.raises(StoreUnavailable):
        network.store.acquire(claim("new", **take))
    assert store.release(NAME, "old")
    network.heal()
    eventually(lambda: isinstance(store.acquire(claim("third")), Granted), 30)


@takes
@pytest.mark.parametrize("first", ["new", "newer"])
def test_a_newcomer_is_replaced_before_it_has_given_up(
    store: Redlock,
    other: Redlock,
    network: Network,
    servers: list[RedisServer],
    take: dict[str, Any],
    first: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each gives back what it took, in whatever order."""
    granted = store.acquire(claim("old"))
    assert isinstance(granted, Granted)
    network.lose_replies_and_refuse(scripts.TAKE, 2, monkeypatch)
    with pytest.raises(StoreUnavailable):
        network.store.acquire(claim("new", **take))
    second = Network(servers)
    try:
        second.lose_replies_and_refuse(scripts.TAKE, 2, monkeypatch)
        with pytest.raises(StoreUnavailable):
            second.store.acquire(claim("newer", replaces=True))
        cut_off = [(network, "new"), (second, "newer")]
        for way, token in cut_off if first == "new" else reversed(cut_off):
            way.heal()
            eventually(lambda way=way, token=token: way.store.release(NAME, token) is not None, 30)
            assert isinstance(other.acquire(claim("late")), Refused)
        eventually(lambda: is_as_before(store, servers, granted.fencing_token), 30)
    finally:
        second.close()


@takes
@pytest.mark.parametrize("undone", ["before", "after"])
def test_a_late_copy_of_a_claim_that_failed_takes_nothing(
    store: Redlock, other: Redlock, servers: list[RedisServer], take: dict[str, Any], undone: str
) -> None:
    granted = store.acquire(claim("old"))
    assert isinstance(granted, Granted)
    copies: list[tuple[Member, Command]] = []
    with pytest.MonkeyPatch.context() as patch:
        for member in other._members:
            patch.setattr(member, "_call", _hold_back(member, member._call, copies))
        with pytest.raises(StoreUnavailable):
            other.acquire(claim("new", **take))
    assert len(copies) >= 2  # the servers that named the holder in time
    if undone == "after":
        other.release(NAME, "new")
    for member, command in copies:
        with suppress(redis.ResponseError):
            evalsha(member._connections.for_ttl(), scripts.TAKE, command)
    if undone == "before":
        other.release(NAME, "new")
    eventually(lambda: is_as_before(store, servers, granted.fencing_token), 30)


def _hold_back(member: Member, call: Callable[..., Any], copies: list[tuple[Member, Command]]) -> Callable[..., Any]:
    def held_back(script: Script, key: str, command: Command, *args: Any) -> Any:
        if script is scripts.TAKE:
            copies.append((member, command))
            raise StoreUnavailable("it is under way")
        return call(script, key, command, *args)

    return held_back


@takes
def test_a_server_that_answers_late_keeps_nothing_of_the_lease_that_was_taken(
    store: Redlock, other: Redlock, servers: list[RedisServer], take: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newcomer has released already what a majority had granted it."""
    assert isinstance(store.acquire(claim("old")), Granted)
    slow, may_answer = other._members[2], Event()
    take_at = slow.take

    def late(*args: Any) -> Any:
        may_answer.wait(30)
        return take_at(*args)

    monkeypatch.setattr(slow, "take", late)
    assert isinstance(other.acquire(claim("new", **take)), Granted)
    attempt = other._attempts["new"]
    assert other.release(NAME, "new")
    may_answer.set()
    eventually(lambda: attempt.over and not Member(servers[2].url()).holders(NAME), 30)


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


def test_an_answer_of_unreachable_is_no_loss(store: Redlock, servers: list[RedisServer]) -> None:
    """One server lost the lease. At another one a claim displaced it, and may yet put it back."""
    granted = store.acquire(claim("old"))
    assert isinstance(granted, Granted)
    servers[0].client().flushall()
    with closing(Member(servers[1].url())) as member:
        assert isinstance(member.take(claim("new", replaces=True), "old"), Granted)
        with pytest.raises(StoreUnavailable):
            store.renew([Renewal(NAME, "old", TTL)])
        assert member.release(NAME, "new")
    eventually(lambda: comes_back(store, servers, granted.fencing_token), 10)


def comes_back(store: Redlock, servers: list[RedisServer], fencing_token: int) -> bool:
    """Renew the first holder's lease: that restores it on the servers which lost it."""
    store.renew([Renewal(NAME, "old", TTL)])
    return is_as_before(store, servers, fencing_token)


class TestClaimsWhoseProcessDied:
    """A claim that displaced a lease, and that is neither settled nor released, ends with its ttl."""

    @pytest.fixture
    def members(self, servers: list[RedisServer]) -> Iterator[list[Member]]:
        with ExitStack() as stack:
            yield [stack.enter_context(closing(Member(server.url()))) for server in servers]

    def displace(self, member: Member, token: str, displaces: str) -> None:
        wanted = replace(claim(token, replaces=True), ttl=0.3)
        assert isinstance(member.take(wanted, displaces), Granted)

    def test_a_holder_learns_that_its_lease_has_ended(self, store: Redlock, members: list[Member]) -> None:
        assert isinstance(store.acquire(replace(claim("old"), ttl=0.3)), Granted)
        for member in members[:2]:
            self.displace(member, "new", "old")

        def has_ended() -> bool:
            with suppress(StoreUnavailable):
                return store.renew([Renewal(NAME, "old", TTL)]) != [None]
            return False

        eventually(has_ended, 10)
        assert isinstance(store.acquire(claim("next")), Granted)

    def test_a_lease_of_a_majority_comes_back_to_the_server(
        self, store: Redlock, servers: list[RedisServer], members: list[Member]
    ) -> None:
        granted = store.acquire(replace(claim("old"), ttl=0.3))
        assert isinstance(granted, Granted)
        self.displace(members[0], "new", "old")
        self.displace(members[0], "newer", "new")
        assert store.renew([Renewal(NAME, "old", TTL)]) == [None]
        eventually(lambda: comes_back(store, servers, granted.fencing_token), 10)
        assert not [field for field in servers[0].client().hkeys(NAME) if field.startswith(("of ", "by "))]

    @pytest.mark.parametrize("by", ["force", "its name"])
    def test_a_claim_that_is_released_by_force_leaves_nothing(
        self, store: Redlock, servers: list[RedisServer], members: list[Member], by: str
    ) -> None:
        assert isinstance(store.acquire(claim("old")), Granted)
        self.displace(members[0], "new", "old")
        members[0].force_release(NAME, "" if by == "force" else "new")
        assert not [field for field in servers[0].client().hkeys(NAME) if field.startswith(("of ", "by "))]
        assert members[0].renew([Renewal(NAME, "old", TTL)]) == ["deleted"]
