"""Leases that are taken by force: which ones, the reason of the loss, and the notice to the holder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from celery_locks._nesting import RunScope, mark_in
from celery_locks.errors import LossReason
from celery_locks.lease import Lease
from celery_locks.locks import Locks
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Granted
from celery_locks.testing.compliance.base import StoreTests

#: The ways to take a lease by force, by the reason of the loss.
FORCES: dict[LossReason, Callable[[Store, Claim], object]] = {
    "force_released": lambda store, claim: store.force_release(claim.name),
    "replaced": lambda store, claim: store.acquire(replace(claim, token=claim.token[::-1], replaces=True)),
}
each_force = pytest.mark.parametrize("reason", FORCES)


class Losses(StoreTests):
    """Leases that are taken by force."""

    #: Seconds within which a store with `notices` notifies a holder. It is more than users get, for slow machines.
    notices_within = 5.0

    @pytest.fixture
    def holder(self, store: Store, name: str) -> Iterator[Lease]:
        """Return a lease that is never renewed, so that only a notice can report its loss before its release."""
        locks = Locks(store, prefix=name)
        yield locks.lock("k", ttl=self.long, renew=False).acquire()
        locks.close()

    # --- Which leases ---

    def test_one_holder_is_released_by_its_token(self, store: Store, another: Store, name: str) -> None:
        first, second = self.claim(name, limit=2), self.claim(name, limit=2)
        for claim in (first, second):
            self.granted(store, claim)
        assert self.names(another.force_release(name, first.token)) == [first.owner]
        assert self.names(store.holders(name)) == [second.owner]
        assert store.renew([self.renewal(first), self.renewal(second)]) == ["force_released", None]
        self.granted(store, self.claim(name, limit=2))

    def test_the_only_holder_is_released_by_its_token(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        fence = self.granted(store, claim)
        assert self.names(another.force_release(name, claim.token)) == [claim.owner]
        assert store.holders(name) == ()
        assert store.release(name, claim.token) is False
        assert self.granted(store, self.claim(name)) > fence

    def test_the_token_of_an_ended_lease_releases_no_one(self, store: Store, another: Store, name: str) -> None:
        ended, released = self.claim(name, ttl=self.short), self.claim(name)
        self.granted(store, ended)
        self.pass_time(self.short)
        self.granted(store, released)
        store.release(name, released.token)
        holder = self.claim(name)
        self.granted(store, holder)
        for token in (ended.token, released.token, "unknown"):
            assert another.force_release(name, token) == ()
        assert self.names(store.holders(name)) == [holder.owner]
        assert store.renew([self.renewal(holder)]) == [None]

    def test_a_release_of_one_holder_wakes_the_first_in_line(self, store: Store, another: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        with self.waiting(another, waiter) as ended:
            store.force_release(name, holder.token)
            ended()
        self.granted(another, waiter)

    @pytest.mark.parametrize("only", [True, False], ids=["one", "all"])
    def test_a_forced_release_whose_reply_is_lost_is_one_call(self, store: Store, name: str, only: bool) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        store.force_release(f"{name}:other", "unknown")  # a server that doesn't know the script yet answers with that
        with self.losing_a_reply(store) as unlucky:
            assert self.names(unlucky.force_release(name, claim.token if only else "")) == [claim.owner]
        assert store.holders(name) == ()

    # --- The reason ---

    @each_force
    def test_the_reason_is_known_whatever_the_next_holder(
        self, store: Store, another: Store, name: str, reason: LossReason
    ) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        FORCES[reason](another, claim)
        assert store.renew([self.renewal(claim)]) == [reason]
        for holder in store.holders(name):
            another.release(name, holder.token)
        assert store.renew([self.renewal(claim)]) == [reason]
        self.granted(another, self.claim(name))
        assert store.renew([self.renewal(claim)]) == [reason]

    @each_force
    def test_the_reason_is_known_beyond_the_deadline(
        self, store: Store, another: Store, name: str, reason: LossReason
    ) -> None:
        claim = self.claim(name, ttl=2.0)
        self.granted(store, claim)
        FORCES[reason](another, replace(claim, ttl=self.long))
        self.pass_time(2.0)
        assert store.renew([self.renewal(claim)]) == [reason]

    @each_force
    def test_a_lease_that_is_released_before_it_notices_has_the_reason(
        self, store: Store, another: Store, holder: Lease, reason: LossReason
    ) -> None:
        FORCES[reason](another, holder._claim)
        assert holder.release() is False
        assert holder.lost_reason == reason

    def test_a_call_whose_lease_was_released_by_force_may_run(self, store: Store, another: Store, name: str) -> None:
        called = self.claim(name)
        self.granted(store, called)
        another.force_release(name, called.token)
        answer = store.acquire(replace(self.claim(name), adopts=called.token))
        assert isinstance(answer, Granted), "only a call that was replaced must not run"

    def test_a_release_by_force_of_many_holders(self, store: Store, another: Store, name: str) -> None:
        claims = [self.claim(name, limit=150) for _ in range(150)]
        for claim in claims:
            self.granted(store, claim)
        assert len(another.force_release(name)) == 100
        reasons = store.renew([self.renewal(claim) for claim in claims])
        assert set(reasons) == {"force_released"}

    # --- Notices ---

    @each_force
    def test_a_holder_is_notified(self, store: Store, another: Store, holder: Lease, reason: LossReason) -> None:
        skip_without_notices(store)
        with lost_in_time(holder, self.notices_within) as reasons:
            FORCES[reason](another, holder._claim)
        assert reasons == [reason]

    @each_force
    def test_a_holder_within_the_body_of_a_run_is_notified(
        self, store: Store, another: Store, name: str, reason: LossReason
    ) -> None:
        """Its owner token is longer than others, because it ends with a mark of the run."""
        skip_without_notices(store)
        locks = Locks(store, prefix=name)
        with RunScope(locks.lock("run", ttl=self.long, renew=False).acquire()):
            lease = locks.lock("k", ttl=self.long, renew=False).acquire()
        assert mark_in(lease.token) is not None
        with lost_in_time(lease, self.notices_within) as reasons:
            FORCES[reason](another, lease._claim)
        assert reasons == [reason]
        locks.close()

    def test_a_holder_is_notified_after_an_earlier_loss(self, store: Store, another: Store, name: str) -> None:
        skip_without_notices(store)
        locks = Locks(store, prefix=name)
        for number in range(3):
            lease = locks.lock(f"k{number}", ttl=self.long, renew=False).acquire()
            with lost_in_time(lease, self.notices_within) as reasons:
                another.force_release(lease._claim.name, lease.token)
            assert reasons == ["force_released"]
        locks.close()

    def test_other_leases_of_the_process_go_on(self, store: Store, another: Store, holder: Lease, name: str) -> None:
        skip_without_notices(store)
        other = Locks(store, prefix=name).lock("other", ttl=self.long, renew=False).acquire()
        with lost_in_time(holder, self.notices_within):
            another.force_release(holder._claim.name)
        assert other.held
        assert other.release() is True


def skip_without_notices(store: Store) -> None:
    """Skip the test if the store sends no notices."""
    if not store.notices:
        pytest.skip(f"{type(store).__name__} declares that it sends no notices")


@contextmanager
def lost_in_time(lease: Lease, seconds: float) -> Iterator[list[LossReason]]:
    """Expect that the block takes a lease by force, and that its holder is notified in time. Yield the reasons."""
    reasons, noticed = list[LossReason](), threading.Event()

    def lost(_: Lease, reason: LossReason) -> None:
        reasons.append(reason)
        noticed.set()

    lease.on_lost(lost)
    yield reasons
    assert noticed.wait(seconds), f"its holder was not notified within {seconds} s"
