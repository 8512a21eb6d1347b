"""Copies of requests to Redis that are repeated, or come late: together they change what one would (promise 35)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import redis

from celery_locks import StoreUnavailable
from celery_locks.stores.parking import Dropped, Parked, Ticket
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.commands import evalsha
from celery_locks.stores.redis.scripts import MOST_VOID, Script
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.redis.wire.protocol import Command, repeated
from celery_locks.stores.types import Claim, Granted, Refused, Renewal, Value
from tests.support.waiting import eventually

NAME = "p:{k}"


def claim(token: str, **options: Any) -> Claim:
    return Claim(NAME, token, f"owner {token}", 60, **options)


class Copies(RedisStore):
    """A store whose requests can be sent once more."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._held_back = False
        self.requests: list[tuple[Script, Command]] = []

    def hold_back(self) -> None:
        """Have the first copy of the next request come late: its repeat is sent before."""
        self._held_back = True

    def send(self, number: int = -1, *, repeat: bool) -> Any:
        """Send a copy of a request; a late first copy unless it is a repeat. Return the answer, an error too."""
        script, command = self.requests[number]
        try:
            return evalsha(self._connections.for_ttl(), script, repeated(command) if repeat else command)
        except redis.RedisError as error:
            return error

    def _call(self, script: Script, key: str, command: Command, *args: Any) -> Any:
        self.requests.append((script, command))
        if self._held_back:
            self._held_back = False
            command = repeated(command)
        return super()._call(script, key, command, *args)


@pytest.fixture
def store(redis_url: str) -> Iterator[Copies]:
    with closing(Copies(redis_url)) as store:
        yield store


def tokens(store: RedisStore) -> list[str]:
    return [holder.token for holder in store.holders(NAME)]


def number_of(store: Copies, script: Script) -> int:
    """The number of the last request that called a script."""
    return max(number for number, (called, _) in enumerate(store.requests) if called is script)


def enter(store: RedisStore, claim: Claim) -> object:
    return store.enter(claim, Ticket("t", "message", "task"))


TAKES = {
    "acquire": lambda store, token: store.acquire(claim(token)),
    "in line": lambda store, token: store.acquire(claim(token), line_up=60),
    "replaces": lambda store, token: store.acquire(claim(token, replaces=True)),
    "for a task": lambda store, token: store.acquire(claim(token, task_id="task")),
    "enter": lambda store, token: enter(store, claim(token)),
}
Take = Callable[[RedisStore, str], object]
each_take = pytest.mark.parametrize("take", TAKES.values(), ids=TAKES.keys())


@each_take
class TestPromise35LateClaims:
    def test_promise_35_a_late_first_copy_grants_nothing(self, store: Copies, take: Take) -> None:
        store.hold_back()
        assert isinstance(take(store, "a"), Granted)
        claimed = len(store.requests) - 1
        assert store.release(NAME, "a")
        store.send(claimed, repeat=False)
        assert tokens(store) == []
        assert isinstance(take(store, "b"), Granted)
        store.send(claimed, repeat=False)
        assert tokens(store) == ["b"]
        assert store.renew([Renewal(NAME, "b", 60)]) == [None]

    def test_promise_35_both_copies_are_one_claim(self, store: Copies, take: Take) -> None:
        granted = take(store, "a")
        claimed = len(store.requests) - 1
        store.send(claimed, repeat=True)
        assert tokens(store) == ["a"]
        assert store.holders(NAME)[0].fencing_token == granted.fencing_token  # type: ignore[attr-defined]
        assert store.release(NAME, "a")
        assert store.held(NAME) == 0

    @pytest.mark.parametrize("first", ["arrived", "late", "never"])
    @pytest.mark.parametrize("copies", [(False,), (True,), (False, True), (True, False)])
    def test_promise_35_no_copy_of_a_failed_claim_comes_after_its_undoing(
        self, store: Copies, client: redis.Redis, take: Take, first: str, copies: tuple[bool, ...]
    ) -> None:
        claimed = fail(store, take)
        if first != "never":
            store.send(claimed, repeat=first == "late")
        store.leave(NAME, "a")
        store.release(NAME, "a")
        for repeat in copies:
            store.send(claimed, repeat=repeat)
        assert tokens(store) == []
        assert store.waiting(NAME) == 0
        assert isinstance(take(store, "b"), Granted)
        for repeat in copies:
            store.send(claimed, repeat=repeat)
        assert tokens(store) == ["b"]
        assert store.release(NAME, "b")
        assert isinstance(take(store, "a"), Granted), "a new claim of the token is none of those that failed"
        assert all(client.pttl(key) > 0 for key in client.keys("*"))


def fail(store: Copies, take: Take) -> int:
    """Have a claim fail whose copies are still under way; return its number."""

    def cut(*_: object) -> object:
        raise StoreUnavailable("cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_twice", cut)
        with pytest.raises(StoreUnavailable):
            take(store, "a")
    return len(store.requests) - 1


class TestPromise35Claims:
    def test_promise_35_later_requests_of_a_waiter_are_not_taken_for_late_copies(self, store: Copies) -> None:
        store.acquire(claim("holder"))
        store.hold_back()
        assert isinstance(store.acquire(claim("a"), line_up=60), Refused)
        for _ in range(2):
            assert isinstance(answer := store.acquire(claim("a"), line_up=60), Refused)
            assert answer.position == 0
        store.release(NAME, "holder")
        assert isinstance(store.acquire(claim("a"), line_up=60), Granted)

    def test_promise_35_a_repeated_replacement_takes_nothing_back_from_a_newer_one(self, store: Copies) -> None:
        store.acquire(claim("old"))
        assert isinstance(store.acquire(claim("first", replaces=True)), Granted)
        first = len(store.requests) - 1
        assert isinstance(store.acquire(claim("second", replaces=True)), Granted)
        store.send(first, repeat=True)
        assert tokens(store) == ["second"]
        assert store.renew([Renewal(NAME, "first", 60), Renewal(NAME, "second", 60)]) == ["replaced", None]

    def test_promise_35_a_late_adoption_takes_nothing(self, store: Copies) -> None:
        store.acquire(claim("call", task_id="task"))
        store.hold_back()
        assert isinstance(store.acquire(claim("run", adopts="call")), Granted)
        adopted = len(store.requests) - 1
        store.release(NAME, "run")
        store.send(adopted, repeat=False)
        assert tokens(store) == []

    def test_promise_35_a_late_entry_of_a_parked_ticket_grants_nothing(self, store: Copies) -> None:
        store.acquire(claim("holder"))
        ticket = Ticket("t", "message", "task")
        store.hold_back()
        assert isinstance(store.enter(claim("a"), ticket), Parked)
        entered = len(store.requests) - 1
        assert len(store.end_run(NAME, "holder", "final", broker="")[1]) == 1
        assert isinstance(store.enter(claim("run"), ticket), Granted)
        store.end_run(NAME, "run", "final", broker="")
        store.send(entered, repeat=False)
        assert tokens(store) == []
        assert store.enter(claim("b"), ticket) == Dropped("done")

    def test_promise_35_without_a_repeat_nothing_is_remembered(self, store: Copies, client: redis.Redis) -> None:
        for take in TAKES.values():
            take(store, "a")
            store.release(NAME, "a")
            store.release(NAME, "a")
        assert not client.exists(f"{NAME}:void")
        assert not client.hexists(NAME, "void")

    def test_promise_35_what_is_remembered_is_bounded(self, store: Copies, client: redis.Redis) -> None:
        for number in range(MOST_VOID + 100):
            store.hold_back()
            store.acquire(claim(f"{number}"))
            store.release(NAME, f"{number}")
        assert client.zcard(f"{NAME}:void") == MOST_VOID
        client.delete(f"{NAME}:void")  # as when it has expired
        store.acquire(claim("a"))
        assert not client.hexists(NAME, "void")


class TestPromise35Values:
    def test_promise_35_a_late_write_does_not_undo_a_newer_one(self, store: Copies) -> None:
        assert isinstance(store.acquire(claim("a")), Granted)
        store.hold_back()
        assert store.write(NAME, "a", "one", 60)
        written = number_of(store, scripts.WRITE)
        assert store.value(NAME) == "one"
        assert store.write(NAME, "a", "two", 60)
        store.send(written, repeat=False)
        assert store.value(NAME) == "two"

    @pytest.mark.parametrize("copies", [(False,), (True,), (False, True), (True, False)])
    def test_promise_35_a_late_copy_of_a_write_that_failed_changes_nothing(
        self, store: Copies, copies: tuple[bool, ...]
    ) -> None:
        assert isinstance(store.acquire(claim("a")), Granted)
        written = fail(store, lambda store, token: store.write(NAME, token, "one", 60))
        assert store.write(NAME, "a", "two", 60)
        for repeat in copies:
            store.send(written, repeat=repeat)
        assert store.value(NAME) == "two"

    def test_promise_35_both_copies_of_a_write_are_one(self, store: Copies) -> None:
        assert isinstance(store.acquire(claim("a")), Granted)
        assert store.write(NAME, "a", "one", 60)
        assert store.send(repeat=True) == 1
        assert store.value(NAME) == "one"
        assert store.write(NAME, "a", "two", 60)
        assert store.value(NAME) == "two"

    @pytest.mark.parametrize("first", ["arrived", "late"])
    def test_promise_35_a_late_release_keeps_the_value_of_a_later_holder(self, store: Copies, first: str) -> None:
        assert isinstance(store.acquire(claim("a")), Granted)
        if first == "late":
            store.hold_back()
        assert store.release(NAME, "a", Value("one", 60))
        released = number_of(store, scripts.RELEASE)
        assert store.value(NAME) == "one"
        assert isinstance(store.acquire(claim("b")), Granted)
        assert store.release(NAME, "b", Value("two", 60))
        for repeat in (False, True):
            store.send(released, repeat=repeat)
        assert store.value(NAME) == "two"


class TestPromise35Releases:
    def test_promise_35_a_repeat_that_finds_no_lease_is_no_loss(self, store: Copies) -> None:
        store.acquire(claim("a"))
        assert store.release(NAME, "a") is True
        assert store.send(repeat=True) == 1
        assert store.send(repeat=False) == 0

    @pytest.mark.parametrize("others", [0, 1])
    def test_promise_35_a_repeat_of_one_of_several_releases_nothing_else(self, store: Copies, others: int) -> None:
        for token in "abc"[: others + 1]:
            store.acquire(claim(token, limit=3))
        store.release(NAME, "a")
        number = len(store.requests) - 1
        store.acquire(claim("d", limit=3))
        assert store.send(number, repeat=True) == 1
        assert store.held(NAME) == others + 1

    def test_promise_35_a_repeat_that_finds_an_expired_lease_reports_it(self, store: Copies) -> None:
        store.acquire(replace(claim("a"), ttl=0.01))
        eventually(lambda: store.holders(NAME) == ())
        store.hold_back()
        assert store.release(NAME, "a") is False

    def test_promise_35_a_run_that_ends_twice(self, store: Copies) -> None:
        enter(store, claim("a"))
        assert store.end_run(NAME, "a", "final", broker="", value=Value("one", 60)) == (True, ())
        number = number_of(store, scripts.END_RUN)
        enter(store, claim("b"))
        store.write(NAME, "b", "two", 60)
        assert store.send(number, repeat=True) == 1
        assert tokens(store) == ["b"]
        assert store.value(NAME) == "two"

    @pytest.mark.parametrize("holder", ["old", ""])
    def test_promise_35_a_release_by_force_spares_a_later_holder(self, store: Copies, holder: str) -> None:
        if holder:
            store.acquire(claim(holder))
        assert [each.token for each in store.force_release(NAME)] == [holder] * bool(holder)
        number = len(store.requests) - 1
        store.acquire(claim("new"))
        answer = store.send(number, repeat=True)
        assert (b"old" in answer or "old" in answer) == bool(holder)
        store.send(number, repeat=False)
        assert tokens(store) == ["new"]
        assert store.renew([Renewal(NAME, "new", 60)]) == [None]


@pytest.mark.parametrize("take", ["replaced", "force_released"])
def test_a_repeated_release_of_a_lease_that_was_taken_by_force_is_none(store: Copies, take: str) -> None:
    assert isinstance(store.acquire(claim("a")), Granted)
    if take == "replaced":
        assert isinstance(store.acquire(claim("b", replaces=True)), Granted)
    else:
        store.force_release(NAME)
    store.hold_back()
    assert not store.release(NAME, "a")


def test_a_late_copy_of_an_early_parking_parks_nothing(store: Copies) -> None:
    store.acquire(claim("holder"))
    assert isinstance(store.park(claim("p"), Ticket("t", "message", "task")), Parked)
    parked = number_of(store, scripts.PARK)
    store.finish(NAME, "t")
    store.requests[parked] = (scripts.PARK, store.requests[parked][1].replace(b"$1\r\nt\r\n", b"$1\r\nu\r\n"))
    store.send(parked, repeat=True)  # its first copy is void from now on
    store.finish(NAME, "u")
    before = store.waiting(NAME)
    assert isinstance(store.send(parked, repeat=False), redis.RedisError)
    assert store.waiting(NAME) == before
