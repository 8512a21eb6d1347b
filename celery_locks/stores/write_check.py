"""A test of whether a store accepts writes, with a throwaway lock; see `Store.try_writes`."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from celery_locks._validation import DEFAULT_PREFIX
from celery_locks.errors import LossReason, StoreUnavailable
from celery_locks.stores.parking import TRIAL, TRIAL_RETENTION, Parked, Ticket, tickets_of
from celery_locks.stores.types import Claim, Granted, Refused, Renewal

T = TypeVar("T")

#: The owner of the throwaway lock, for people to read.
OWNER = "celery locks doctor"
#: How long its leases, places in line and values live, in seconds, if this process dies.
TTL_SECONDS = 2 * TRIAL_RETENTION
#: How long a waiter of it waits for its wake-up, in seconds.
WAIT_SECONDS = 0.25


def throwaway_name(prefix: str) -> str:
    """Return the full name of a lock that no one else uses.

    Args:
        prefix: The prefix of the site's locks.
    """
    return f"{prefix}:{TRIAL}{secrets.token_hex(16)}}}"


class TriedStore(Protocol):
    """The methods of `Store` that the test uses."""

    fair: bool
    values: bool

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused: ...
    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]: ...
    def release(self, name: str, token: str) -> bool: ...
    def leave(self, name: str, token: str) -> None: ...
    def wait(self, name: str, token: str, timeout: float) -> None: ...
    def write(self, name: str, token: str, text: str, keep: float) -> bool: ...
    def value(self, name: str) -> str | None: ...
    def delete(self, name: str) -> bool: ...
    def _forget_trial(self, name: str, ticket_id: str) -> None: ...


class WriteCheck:
    """One throwaway lock in one store.

    Args:
        store: The store.
        prefix: The prefix of the site's locks. The store's access rules may be about names with this prefix.
        name: The full name of the lock.
    """

    def __init__(self, store: TriedStore, prefix: str, name: str) -> None:
        self._store = store
        self._prefix = prefix
        self._name = name

    def run(self, *, line: bool = True, values: bool = True, parks: bool = False) -> None:
        """Use the lock as tasks do, and release it.

        Args:
            line: Whether a second claim waits in line.
            values: Whether a value is written and read.
            parks: Whether a task is parked, too.

        Raises:
            StoreUnavailable: A step failed. Its text names the step, what the store answered, and the remedy.
        """
        ticket_id = secrets.token_hex(16)
        try:
            self._use(line, values)
            if parks:
                self._park(ticket_id)
        finally:
            with suppress(StoreUnavailable):
                self._store._forget_trial(self._name, ticket_id)

    def _use(self, line: bool, values: bool) -> None:
        first = self.claim()
        self._acquire(first)
        try:
            self._renew(first)
            if values:
                self._value(first)
            if line:
                self._wait(first)
                first = self.claim()
                self._acquire(first)
        except BaseException:
            self._release_after_failure(first)
            raise
        with self.step("a lock can't be released"):
            self._expect(self._store.release(self._name, first.token), True)

    def _acquire(self, claim: Claim) -> None:
        with self.step("a lock can't be acquired"):
            self._expect(isinstance(self._store.acquire(claim), Granted), True)

    def _renew(self, claim: Claim) -> None:
        renewal = Renewal(claim.name, claim.token, TTL_SECONDS)
        with self.step("a lock can't be renewed"):
            self._expect(self._store.renew([renewal]), [None])
            self._expect(
                self._store.renew([renewal, renewal]), [None, None]
            )  # stores renew several leases in another way

    def _value(self, claim: Claim) -> None:
        with self.step("a value can't be kept with a key"):
            self._expect(self._store.delete(claim.name), False)
            self._expect(self._store.write(claim.name, claim.token, "1", TTL_SECONDS), True)
            self._expect(self._store.value(claim.name), "1")
            # Let the value expire: deleting it would leave a record.
            self._expect(self._store.write(claim.name, claim.token, "1", 0.001), True)

    def _wait(self, holder: Claim) -> None:
        """Line up behind a holder, wake up when it releases, and leave the line."""
        waiter = self.claim()
        with self.step("a waiter can't stand in line"):
            answer = self._store.acquire(waiter, TTL_SECONDS)
            self._expect(isinstance(answer, Refused) and (answer.position == 0 or not self._store.fair), True)
        try:
            with self.step("a lock can't be released to a waiter"):
                self._expect(self._store.release(holder.name, holder.token), True)
            with self.step("a waiter can't be woken"):
                self._store.wait(waiter.name, waiter.token, WAIT_SECONDS)
        finally:
            with self.step("a waiter can't leave the line"):
                self._store.leave(waiter.name, waiter.token)

    def _park(self, ticket_id: str) -> None:
        """Park a task behind a holder, dispatch it, run it, and sweep."""
        store, holder, run = tickets_of(self._store), self.claim(), self.claim()
        assert store is not None
        # Without a message a ticket is not parked. No sweeper sends this one, even if this process dies: see `TRIAL`.
        ticket = Ticket(ticket_id, "{}", secrets.token_hex(16), wait=TTL_SECONDS)
        self._acquire(holder)
        try:
            with self.step("a task can't be parked"):
                self._expect(isinstance(store.park(run, ticket) or store.enter(run, ticket), Parked), True)
                self._expect(store.waiting(run.name), 1)
            with self.step("a parked task can't be dispatched"):
                released, dispatches = store.end_run(holder.name, holder.token, "final", broker="")
                self._expect((released, [dispatch.id for dispatch in dispatches]), (True, [ticket.id]))
                store.published(dispatches[0], TTL_SECONDS)
            with self.step("a parked task can't run"):
                self._expect(isinstance(store.enter(run, ticket), Granted), True)
                self._expect(store.end_run(run.name, run.token, "stored", broker="")[0], True)
                store.finish(run.name, ticket.id, run.token)
            with self.step("the sweeper can't look for parked tasks"):
                nowhere = f"{self._prefix}:{secrets.token_hex(16)}"  # a prefix without tasks of the site
                self._expect(store.sweep(nowhere, ""), ())
                self._expect(store.withdraw(self._prefix, "", ticket.task_id), ())
                store.await_due(nowhere, "", 0.01)
        except BaseException:
            self._release_after_failure(holder, run)
            with suppress(StoreUnavailable):
                store.finish(run.name, ticket.id)
            raise

    def claim(self) -> Claim:
        """Return a claim to the throwaway lock, with a token of its own."""
        return Claim(self._name, secrets.token_hex(16), OWNER, TTL_SECONDS)

    def _release_after_failure(self, *claims: Claim) -> None:
        for claim in claims:
            with suppress(StoreUnavailable):
                self._store.release(claim.name, claim.token)

    def _expect(self, answer: T, expected: T) -> None:
        if answer != expected:
            raise StoreUnavailable(
                f"the lock store answered {answer!r}, and {expected!r} is right. Does it evict or delete keys, or "
                "does another program write to them? Give locks a store of their own by locks_url"
            )

    @contextmanager
    def step(self, failure: str) -> Iterator[None]:
        """Add the failed step to an error, and name the keys by the site's prefix.

        Args:
            failure: The start of the error's text.

        Raises:
            StoreUnavailable: The step failed.
        """
        try:
            yield
        except StoreUnavailable as error:
            # The store's own remedy names the keys of the default prefix.
            text = str(error).replace(f"{DEFAULT_PREFIX}:*", f"{self._prefix}:*")
            raise StoreUnavailable(f"{failure}: {text}") from error


def try_writes(store: TriedStore, prefix: str, *, parks: bool = False, name: str = "") -> None:
    """Use a throwaway lock with all capabilities of a store.

    Args:
        store: The store.
        prefix: The prefix of the site's locks.
        parks: Whether a task is parked, too, if tasks can park in the store.
        name: The lock's full name; a random one if empty.

    Raises:
        StoreUnavailable: A step failed. Its text names the step, what the store answered, and the remedy.
    """
    check = WriteCheck(store, prefix, name or throwaway_name(prefix))
    check.run(line=store.fair, values=store.values, parks=parks and tickets_of(store) is not None)


def all_of(answers: Iterable[list[str] | StoreUnavailable | None]) -> tuple[list[str], list[str]]:
    """Return the warnings and the failures of several stores.

    Args:
        answers: What `Store.try_writes` returned or raised for each store; ``None`` when it did not end in time.
    """
    warnings, failures = list[str](), list[str]()
    for answer in answers:
        if isinstance(answer, list):
            warnings += answer
        else:
            failures.append("a lock store did not answer in time" if answer is None else str(answer))
    return warnings, failures
