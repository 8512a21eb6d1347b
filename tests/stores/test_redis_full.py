"""A Redis or Valkey server at its ``maxmemory`` with ``noeviction``: what is held goes on, what is new waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace

import pytest
import redis

from celery_locks import Locks, StoreUnavailable
from celery_locks._runtime.tokens import PROCESS_DIGITS
from celery_locks.stores.base import Store
from celery_locks.stores.parking import Dropped, Out, Parked, Parking
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.redlock.member import Member
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.types import Claim, Granted, Renewal
from celery_locks.testing.compliance.ticket_base import TicketTests
from tests.support.cli import Run, make_app
from tests.support.servers import RedisServer, all_binaries, default_binary
from tests.support.waiting import eventually

#: By how many bytes the server is over its limit: more than what a test lets it free.
OVER_BYTES = 2_000_000

Full = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="module", params=all_binaries() or [None], ids=lambda binary: getattr(binary, "flavour", "none"))
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of each flavour, with data of another service in database 1."""
    with RedisServer(request.param or default_binary(), maxmemory_policy="noeviction") as server:
        with server.client(1) as client:
            client.mset({f"other service {number}": "y" * 10_000 for number in range(400)})
        yield server


@pytest.fixture
def full(server: RedisServer) -> Full:
    """Makes the server full within a block, and checks that it is full at both ends of the block."""

    @contextmanager
    def full() -> Iterator[None]:
        with server.client() as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] - OVER_BYTES)
            try:
                refuses_writes(client)
                yield
                refuses_writes(client)
            finally:
                client.config_set("maxmemory", 0)

    return full


def refuses_writes(client: redis.Redis) -> None:
    with pytest.raises(redis.exceptions.ResponseError, match="used memory > 'maxmemory'"):
        client.set("one more", "x")


class OnAFullServer(TicketTests):
    @pytest.fixture
    def store(self, server: RedisServer) -> Store:
        with server.client() as client:
            client.flushdb()
        return RedisStore(server.url())

    def sole(self, store: Store, name: str) -> list[Claim]:
        """One holder, that no one has competed with."""
        return [self.hold(store, name)]

    def several(self, store: Store, name: str) -> list[Claim]:
        """Three holders of a limit of three."""
        return [self.hold(store, name, limit=3) for _ in range(3)]

    def with_waiters(self, store: Store, name: str) -> list[Claim]:
        """One holder, and two waiters in line."""
        holder = self.hold(store, name)
        self.waiters = [self.claim(name), self.claim(name)]
        for waiter in self.waiters:
            store.acquire(waiter, self.long)
        return [holder]

    def with_tickets(self, store: Store, name: str) -> list[Claim]:
        """One holder, and two parked tickets."""
        holder = self.hold(store, name)
        assert isinstance(store, Parking)
        self.park(store, name, 1, 2)
        return [holder]

    def ends_in(self, store: Store, claim: Claim) -> float:
        """Return the seconds until the deadline of a lease; 0 where it is not held."""
        return next((each.expires_in for each in store.holders(claim.name) if each.token == claim.token), 0.0)


SITUATIONS = pytest.mark.parametrize("situation", ["sole", "several", "with_waiters", "with_tickets"])


class TestPromise38Leases(OnAFullServer):
    @pytest.fixture
    def held(self, request: pytest.FixtureRequest, store: Store, name: str, situation: str) -> Sequence[Claim]:
        claims: Sequence[Claim] = getattr(self, situation)(store, name)
        return claims

    @SITUATIONS
    def test_promise_38_a_lease_is_renewed(self, store: Store, held: Sequence[Claim], full: Full) -> None:
        with full():
            for claim in held:
                assert store.renew([Renewal(claim.name, claim.token, 600)]) == [None]
        assert all(self.ends_in(store, claim) > 500 for claim in held)

    @SITUATIONS
    def test_promise_38_leases_are_renewed_in_a_batch(
        self, store: Store, held: Sequence[Claim], name: str, full: Full
    ) -> None:
        sole = [self.hold(store, f"{name}{number}") for number in range(20)]
        all_held = [*sole, *held]
        with full():
            renewals = [Renewal(claim.name, claim.token, 600) for claim in all_held]
            assert store.renew(renewals) == [None] * len(renewals)
        assert all(self.ends_in(store, claim) > 500 for claim in all_held)

    @SITUATIONS
    def test_promise_38_a_renewal_reports_why_another_lease_of_the_batch_was_lost(
        self, store: Store, held: Sequence[Claim], name: str, full: Full
    ) -> None:
        renewals = [Renewal(name, "f" * 32, 600), Renewal(name, held[0].token, 600)]
        with full():
            assert store.renew(renewals) == ["stolen", None]
        assert self.ends_in(store, held[0]) > 500

    @SITUATIONS
    def test_promise_38_a_lease_is_released(self, store: Store, held: Sequence[Claim], full: Full) -> None:
        with full():
            assert all(store.release(claim.name, claim.token) for claim in held)
        assert store.holders(held[0].name) == ()

    @SITUATIONS
    def test_promise_38_a_run_ends(self, parking: Parking, store: Store, held: Sequence[Claim], full: Full) -> None:
        with full():
            for claim in held:
                released, _ = self.end(parking, claim.name, claim.token)
                assert released
        assert not any(self.ends_in(store, claim) for claim in held)

    @SITUATIONS
    def test_promise_38_all_leases_of_a_key_are_released_by_force(
        self, store: Store, held: Sequence[Claim], name: str, full: Full
    ) -> None:
        with full():
            assert {each.token for each in store.force_release(name)} == {claim.token for claim in held}
        assert store.holders(name) == ()
        assert store.renew([Renewal(name, held[0].token, 60)]) == ["force_released"]

    @SITUATIONS
    def test_promise_38_one_lease_is_released_by_force(
        self, store: Store, held: Sequence[Claim], name: str, full: Full
    ) -> None:
        with full():
            assert [each.token for each in store.force_release(name, held[0].token)] == [held[0].token]
        assert {each.token for each in store.holders(name)} == {claim.token for claim in held[1:]}

    @SITUATIONS
    def test_promise_38_a_lease_is_adopted(self, store: Store, held: Sequence[Claim], name: str, full: Full) -> None:
        """The lease of a call moves to the run."""
        run = replace(self.claim(name), adopts=held[0].token)
        with full():
            assert isinstance(store.acquire(run), Granted)
        assert self.ends_in(store, run) > 0
        assert not self.ends_in(store, held[0])

    @SITUATIONS
    def test_promise_38_a_fencing_token_of_a_majority_is_confirmed(
        self, server: RedisServer, store: Store, held: Sequence[Claim], name: str, full: Full
    ) -> None:
        agreed = store.holders(name)[-1].fencing_token + 1_000_000
        with closing(Member(server.url())) as member, full():
            assert member.confirm(name, held[-1].token, agreed, 0, 60)
        assert agreed in [each.fencing_token for each in store.holders(name)]

    @SITUATIONS
    def test_promise_38_a_holder_writes_its_value(
        self, store: RedisStore, held: Sequence[Claim], name: str, full: Full
    ) -> None:
        with full():
            assert store.write(name, held[0].token, "[1]", 60)
            assert store.value(name) == "[1]"
            assert store.delete(name)

    def test_promise_38_expired_leases_are_passed_over(self, store: Store, name: str, full: Full) -> None:
        claims = [self.hold(store, name, limit=3, ttl=1) for _ in range(2)]
        assert store.held(name) == 2
        self.pass_time(1)
        with full():
            assert store.renew([Renewal(name, claim.token, 60) for claim in claims]) == ["expired", "expired"]
            assert not store.release(name, claims[0].token)
            assert store.force_release(name) == ()

    def test_promise_38_a_release_wakes_the_first_waiter(self, store: Store, name: str, full: Full) -> None:
        (holder,) = self.with_waiters(store, name)
        first, second = [waiter.token for waiter in self.waiters]
        with full():
            assert store.release(name, holder.token)
            assert list(store.wait_any([(name, first)], self.patience)) == [first]
            store.leave(name, first)
            assert list(store.wait_any([(name, second)], self.patience)) == [second]
            store.leave(name, second)
        assert store.holders(name) == ()
        self.granted(store, self.claim(name))

    def test_promise_38_a_server_that_forgot_its_scripts(
        self, server: RedisServer, store: Store, name: str, full: Full
    ) -> None:
        (holder,) = self.sole(store, name)
        with full():
            with server.client() as client:
                client.script_flush()
            assert store.renew([Renewal(name, holder.token, 60)]) == [None]
            assert store.release(name, holder.token)

    @pytest.mark.parametrize("holder", ["", "its token"])
    def test_promise_38_a_notice_that_fails_does_not_fail_a_release_by_force(
        self, server: RedisServer, store: Store, prefix: str, name: str, holder: str
    ) -> None:
        (held,) = self.sole(store, name)
        with server.client() as client:
            client.set(f"{prefix}:lost:{held.token[:PROCESS_DIGITS]}", "not a list")
        assert len(store.force_release(name, holder and held.token)) == 1
        assert store.renew([Renewal(name, held.token, 60)]) == ["force_released"]

    @SITUATIONS
    def test_promise_38_a_newcomer_gets_no_error_but_unavailable(
        self, store: Store, held: Sequence[Claim], name: str, full: Full
    ) -> None:
        with full():
            with pytest.raises(StoreUnavailable, match=r"memory is full\. Raise maxmemory"):
                store.acquire(self.claim(f"{name} which is free"))
            assert all(self.ends_in(store, claim) > 0 for claim in held)
        assert not store.held(f"{name} which is free")


class TestPromise38Tickets(OnAFullServer):
    def test_promise_38_parked_tasks_run_one_after_the_other(
        self, parking: Parking, store: Store, name: str, full: Full
    ) -> None:
        (holder,) = self.with_tickets(store, name)
        with full():
            _, (dispatch,) = self.end(parking, name, holder.token)
            for number in (1, 2):
                assert dispatch.id == f"task {number}:0"
                parking.published(dispatch, self.long)
                run = self.claim(name)
                assert isinstance(parking.enter(run, self.ticket(number)), Granted)
                copy = parking.enter(self.claim(name), self.ticket(number))
                assert isinstance(copy, Dropped)
                assert copy.state == "running"
                assert store.renew([Renewal(name, run.token, 60)]) == [None]
                released, dispatches = self.end(parking, name, run.token)
                assert released
                dispatch = dispatches[0] if number == 1 else dispatch
                assert parking.enter(self.claim(name), self.ticket(number)) == Dropped("done")
        assert parking.waiting(name) == 0
        assert store.holders(name) == ()

    def test_promise_38_a_copy_of_a_parked_ticket_is_parked(
        self, parking: Parking, store: Store, name: str, full: Full
    ) -> None:
        self.with_tickets(store, name)
        with full():
            for number in (1, 2):
                answer = parking.enter(self.claim(name), self.ticket(number))
                assert isinstance(answer, Parked)
                assert answer.refused.position == number - 1
        assert parking.waiting(name) == 2

    def test_promise_38_a_run_that_did_not_end_for_good_runs_again(
        self, parking: Parking, store: Store, name: str, full: Full
    ) -> None:
        run = self.run(store, parking, name, 1)
        with full():
            assert store.release(name, run.token)
            again = self.claim(name)
            assert isinstance(parking.enter(again, self.ticket(1)), Granted)
            assert store.release(name, again.token)
            parking.finish(name, "task 1:0", again.token)
            assert parking.enter(self.claim(name), self.ticket(1)) == Dropped("done")

    @pytest.mark.parametrize("number", [1, 2])
    def test_promise_38_a_parked_ticket_is_finished(
        self, parking: Parking, store: Store, name: str, full: Full, number: int
    ) -> None:
        self.with_tickets(store, name)
        with full():
            parking.finish(name, f"task {number}:0")
        assert parking.waiting(name) == 1

    @pytest.mark.parametrize("number", [1, 2])
    def test_promise_38_a_parked_task_is_withdrawn(
        self, parking: Parking, store: Store, prefix: str, name: str, full: Full, number: int
    ) -> None:
        self.with_tickets(store, name)
        with full():
            (dispatch,) = parking.withdraw(prefix, "", f"task {number}")
            assert dispatch.id == f"task {number}:0"
            parking.published(dispatch, self.long)
            answer = parking.enter(self.claim(name), self.ticket(number))
            assert isinstance(answer, Out)
            assert answer.reason == "revoked"
        assert parking.waiting(name) == 1

    def test_promise_38_the_lease_of_a_call_is_withdrawn(
        self, parking: Parking, store: Store, prefix: str, name: str, full: Full
    ) -> None:
        self.granted(store, replace(self.claim(name), task_id="task 1"))
        with full():
            parking.withdraw(prefix, "", "task 1")
        assert store.holders(name) == ()

    def test_promise_38_a_sweep_dispatches_after_a_release_by_force(
        self, parking: Parking, store: Store, prefix: str, name: str, full: Full
    ) -> None:
        self.with_tickets(store, name)
        with full():
            assert store.force_release(name)
            assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]

    def test_promise_38_a_sweep_puts_out_what_waited_too_long(
        self, parking: Parking, store: Store, prefix: str, name: str, full: Full
    ) -> None:
        self.hold(store, name)
        for number in (1, 2):
            waits = self.short if number == 1 else None
            assert isinstance(parking.enter(self.claim(name), self.ticket(number, waits)), Parked)
        self.pass_time(self.short)
        with full():
            (dispatch,) = parking.sweep(prefix, "")
            assert (dispatch.id, dispatch.count) == ("task 1:0", 1)
            parking.published(dispatch, self.short)
            self.pass_time(self.short)
            (again,) = parking.sweep(prefix, "")  # no copy has arrived
            assert (again.id, again.count) == ("task 1:0", 2)
            answer = parking.enter(self.claim(name), self.ticket(1))
            assert isinstance(answer, Out)
            assert answer.reason == "timeout"

    def test_promise_38_a_sweep_dispatches_again_what_did_not_arrive(
        self, parking: Parking, store: Store, prefix: str, name: str, full: Full
    ) -> None:
        (holder,) = self.with_tickets(store, name)
        with full():
            _, (dispatch,) = self.end(parking, name, holder.token)
            self.pass_time(self.first_dispatch)
            (again,) = parking.sweep(prefix, "")
            assert (again.id, again.count) == (dispatch.id, dispatch.count + 1)

    def test_promise_38_a_sweep_parks_what_is_owed_again(
        self, parking: Parking, store: Store, prefix: str, name: str, full: Full
    ) -> None:
        self.run(store, parking, name, 1, ttl=1.5)
        with full():
            copy = parking.enter(self.claim(name), self.ticket(1))
            assert isinstance(copy, Dropped)
            assert copy.state == "running"
            self.pass_time(1.5)
            assert self.ids(parking.sweep(prefix, "")) == ["task 1:0"]


# --- What users see ---


@pytest.fixture
def locks(server: RedisServer) -> Iterator[Locks]:
    with server.client() as client:
        client.flushdb()
    locks = Locks(server.url())
    yield locks
    locks.close()


def test_promise_38_locks_on_a_full_server(locks: Locks, full: Full) -> None:
    lease = locks.lock("k", ttl=30).acquire()
    smtp = locks.semaphore("smtp", limit=3, ttl=30)
    permits = [smtp.acquire(), smtp.acquire(permits=2)]
    with full():
        for each in (lease, *permits):
            each.extend(90)
            assert each.remaining() > 80
        lease.update({"page": 2})
        for each in (lease, *permits):
            assert each.release()
    assert locks.value("k") == {"page": 2}
    assert not locks.lock("k").locked()
    assert smtp.available() == 3


def test_promise_38_a_lease_outlives_its_ttl_on_a_full_server(locks: Locks, full: Full) -> None:
    lock, smtp = locks.lock("k", ttl=2), locks.semaphore("smtp", limit=2, ttl=2)
    leases = [lock.acquire(), smtp.acquire(), smtp.acquire()]
    with full():
        eventually(lambda: min(each.held_for for each in (*lock.holders(), *smtp.holders())) > 4.5, 20)
        assert all(lease.held for lease in leases)
        assert all(lease.release() for lease in leases)


def test_promise_38_a_refused_renewal_is_no_loss(
    locks: Locks, full: Full, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that takes no memory even for a renewal is as one that is away: the lease lives until its deadline."""
    lease = locks.lock("k", ttl=6).acquire()
    reasons: list[str] = []
    lease.on_lost(lambda lease, reason: reasons.append(reason))
    with monkeypatch.context() as patched, full():
        patched.setattr(scripts, "RENEW", Script("return redis.call('SET', KEYS[1] .. ':more', 1)"))
        eventually(lambda: "memory is full" in caplog.text, 10, "no renewal was refused")
        assert lease.held
    eventually(lambda: lease.remaining() > 5, 10, "the lease was not renewed once the server took writes")
    assert reasons == []
    assert lease.release()


def test_promise_38_the_command_releases_on_a_full_server(server: RedisServer, locks: Locks, full: Full) -> None:
    lost: list[str] = []
    smtp = locks.semaphore("s", limit=2, ttl=120)
    for lease in (locks.lock("k", ttl=120).acquire(), smtp.acquire(), smtp.acquire()):
        lease.on_lost(lambda lease, reason: lost.append(reason))
    run = Run(make_app(server.url()))
    with full():
        assert "Released k" in run("release", "k", "--yes").output
        assert "Released s" in run("release", "s", "--yes").output
        eventually(lambda: lost == ["force_released"] * 3)
    assert not locks.lock("k").locked()
    assert smtp.available() == 2
