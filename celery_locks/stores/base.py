"""What a store is: where leases live, and the one clock that they end by.

A store keeps, for each lock, its *holders* (owner token, permits, deadline), a *line* of waiters (first come, first
served, each with a deadline of its own) and the last fencing token. Eight promises hold for every store:

1. Never more than ``limit`` permits are held by holders whose deadline has not passed on the store's clock.
2. Every change is one atomic step, guarded by the owner token; a stale token changes nothing.
3. A fencing token is greater than every earlier one of its lock, also after the lock was idle or deleted.
4. Everything written has an expiry, and nothing scans without a bound.
5. An acquire repeated with the same token is the same acquire, so a lost reply can be retried.
6. Waiters that line up are served first come, first served; a dead waiter or holder is passed over within its ttl.
7. Waiters are woken, not polled, where the store can.
8. All that is written for one lock lies under its name (for Redis Cluster: in one hash slot).

`celery_locks.testing.StoreCompliance` tests all of them; run it over a store of your own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Sequence
from typing import TYPE_CHECKING

from celery_locks.errors import LockConfigError, LossReason
from celery_locks.stores.check_results import is_warning
from celery_locks.stores.listing import LockInfo, NameRange, Page, Stats
from celery_locks.stores.types import Claim, Granted, Holder, Refused, Renewal, Value

if TYPE_CHECKING:
    from celery_locks.stores.loss_feed import LossFeed


class Store(ABC):
    """Where leases live. Methods may be called by any thread.

    Every method raises `StoreUnavailable` when the store can't be reached or can't serve; nothing was acquired then.
    """

    #: Whether `wait` is woken by a release. Without, it looks again every now and then.
    wakes = False
    #: For how many tokens at once `wait_any` can wait.
    waits_for = 1
    #: Whether leases are seen by other processes.
    shared = True
    #: Whether leases are seen by other machines.
    machines = True
    #: Whether fencing tokens grow for each lock (promise 3).
    fencing = True
    #: Whether a lock may have a limit above one.
    semaphores = True
    #: Whether waiters that line up are served first come, first served (promise 6).
    fair = True
    #: Whether a process is notified promptly of leases that were taken from it by force: `loss_feed`.
    notices = False
    #: Whether a value can be kept with a lock: `write`, `value` and `delete`.
    values = False
    #: Whether it keeps a list of what is held: `page` and `stats`.
    lists = False

    @abstractmethod
    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        """Take permits, by this rule. The first line that applies decides; what has passed its deadline does not count.

        1. *The token holds already*: granted again, with the same fencing token and permits. The deadline becomes no
           sooner. So a request whose reply was lost can be repeated.
        2. *A newcomer replaced the lease* that the claim adopts, or an earlier copy of a claim that adopts or replaces:
           refused, with `Refused.replaced`.
        3. *The lease to adopt lives*, and the permits fit in its place: they are no more than it has, or no more than
           the limit together with those of all other holders. Granted, also before those in line, and that lease ends.
        4. *The claim replaces*, and asks for no more permits than its limit: granted, also before those in line.
           Holders lose their leases, earliest acquisition first, until there is room.
        5. *There is room*, and no one stands in line before the token: the permits held by all and those asked for are
           no more than the limit that this claim names. Granted; a place in line that the token had ends.
        6. Otherwise refused. With ``line_up`` the token gets a place at the end of the line, or keeps its place for
           longer; but no new place where `Claim.max_waiters` others have one, see `Refused.full`.

        `celery_locks.testing` has a table of cases of this rule, which all stores answer alike.

        Args:
            claim: What is asked for.
            line_up: When refused, stand in line for that many seconds (longer by repeating the call before they are
                over: the place is kept). ``None``: don't line up; a place had before is kept until its own deadline.
        """

    @abstractmethod
    def leave(self, name: str, token: str) -> None:
        """Gives up the place in line, if there is one. A wake-up that this token had goes to the next."""

    @abstractmethod
    def wait(self, name: str, token: str, timeout: float) -> None:
        """Blocks until it may be this token's turn, or ``timeout`` seconds are over. May return early."""

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        """Like `wait`, for several who stand in line: so one thread waits for many.

        Args:
            places: Names and tokens, at least one and at most `waits_for`; all names with the same `waits_with`.
            timeout: For how many seconds at most.

        Returns:
            The tokens whose turn it may be. There may be none, before the timeout too.
        """
        name, token = places[0]
        self.wait(name, token, timeout)
        return (token,)

    def waits_with(self, name: str) -> Hashable:
        """What names have in common that `wait_any` can wait for at once. For a store to override that can't mix all.

        Args:
            name: A lock's full name.
        """
        return None

    @abstractmethod
    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        """Prolongs leases, all in one round trip.

        Returns:
            For each, in order: ``None`` when it was prolonged, else why it no longer can be: ``expired`` (its
            deadline has passed), ``stolen`` (its record is gone and others hold the lock), ``deleted`` (its record
            is gone), ``replaced`` (a newcomer took it by `Claim.replaces`), ``force_released`` (by `force_release`).
            The last two are known for an hour at least. Or ``unreachable`` where a store of many
            servers could not ask this lease's: nothing is known of it, and it is tried again.
        """

    @abstractmethod
    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        """Release the lease and wake the next in line.

        Args:
            name: The lock's full name.
            token: The owner token.
            value: What to keep with the lock, written in the same atomic step if the token holds the lock. A store that
                is full releases the lease, and keeps the value that was there.

        Returns:
            Whether this call released a lease that had not passed its deadline. A request whose reply was lost is
            repeated; a repeat that finds no lease can't know whether the first one released it, and counts as released.
        """

    def shrink(self, name: str, token: str, permits: int) -> bool:
        """Keep only this many permits of a lease, release the others, and wake the next in line.

        A lease that has no more than these permits stays as it is, so the request may be repeated.

        Args:
            name: The lock's full name.
            token: The owner token.
            permits: How many are kept, at least 1.

        Returns:
            Whether the token holds the lock, and its deadline has not passed.
        """
        raise LockConfigError(
            f"{type(self).__name__} has no limits above one, so it can't release some permits of a lease"
        )

    @abstractmethod
    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        """Release a lock by force, and wake the next in line. A parked task's ticket stays as it is.

        The reason ``force_released`` is kept for `renew`, of `MOST_TAKEN` holders at most. They are notified where the
        store does so.

        Args:
            name: The lock's full name.
            token: The owner token of the only holder to release; all holders without it.

        Returns:
            The holders that were released, at most `MOST_HOLDERS`. A call whose reply is lost may be repeated by the
            store itself; it still counts as one call.
        """

    def serving(self, name: str) -> Store:
        """Return the store that a lock is in. For a store of several stores to override."""
        return self

    def loss_feed(self, name: str, process: str) -> LossFeed:
        """Return the notices for a process about leases that are taken by force. For a store with `notices`.

        Args:
            name: The full name of a lock: of all that share its prefix.
            process: The first digits of the process's owner tokens; see `celery_locks._runtime.tokens`.
        """
        raise LockConfigError(f"{type(self).__name__} sends no notices: losses are noticed at the next renewal")

    @abstractmethod
    def holders(self, name: str) -> tuple[Holder, ...]:
        """Those who hold the lock now, earliest acquisition first, at most `MOST_HOLDERS`."""

    def held(self, name: str) -> int:
        """How many permits are held now. For a store to override where a lock may have more than `MOST_HOLDERS`."""
        return sum(holder.permits for holder in self.holders(name))

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        """Keeps a value with a lock, if this token holds it.

        Args:
            name: The lock's full name.
            token: The owner token.
            text: The value.
            keep: For how many seconds; the lease may end before.

        Returns:
            Whether it was written: ``False`` when the token holds the lock no more.
        """
        raise LockConfigError(f"{type(self).__name__} keeps no values with its locks")

    def value(self, name: str) -> str | None:
        """The value that is kept with a lock, ``None`` for none."""
        raise LockConfigError(f"{type(self).__name__} keeps no values with its locks")

    def delete(self, name: str) -> bool:
        """Deletes the value that is kept with a lock, whoever holds it.

        Returns:
            Whether there was one. A call whose reply is lost may be repeated by the store itself; it still counts as
            one call.
        """
        raise LockConfigError(f"{type(self).__name__} keeps no values with its locks")

    def info(self, name: str) -> LockInfo:
        """What is known of one lock; at most `MOST_HOLDERS` holders and `MOST_IN_LINE` of those in line are named."""
        return LockInfo(name, self.holders(name), self.held(name), 0)

    def page(self, names: NameRange) -> Page:
        """Those locks of a range of names that are held or waited for, in order.

        Looks at a bounded number of them, and takes what it finds expired from the store's list.

        Returns:
            At most ``names.count`` locks. There may be fewer, even none, although more follow: the others had expired.
        """
        raise LockConfigError(f"{type(self).__name__} keeps no list of what is held: ask for a key by its name")

    def stats(self, prefix: str, near: float) -> Stats:
        """Figures over all locks whose names begin with ``prefix`` and ``:``, at a bounded cost.

        Args:
            prefix: What the names begin with.
            near: How soon a deadline is near, in seconds.
        """
        raise LockConfigError(f"{type(self).__name__} keeps no list of what is held: ask for a key by its name")

    @abstractmethod
    def ping(self) -> None:
        """Raises `StoreUnavailable` when the store can't serve."""

    def about(self) -> str:
        """What it is and which release, for people to read. For a store to override."""
        return type(self).__name__

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        """What in the store's settings could break what leases promise. For a store to override.

        Args:
            parks: Whether tasks wait in the store, so that it must not forget them.

        Returns:
            For each thing that was looked at, such as ``"eviction"``, what is wrong with it and the remedy; an empty
            text when it is as it should be, and one that begins with ``"not known: "`` when it could not be looked at.
        """
        return {}

    def try_writes(self, prefix: str, *, parks: bool = False) -> list[str]:
        """Acquire, renew, wait for and release a throwaway lock. For a store of several servers to override.

        It has a random key, so it never meets a lock of the site. What a released lock leaves is all that it leaves.

        Args:
            prefix: That of the site's locks: so the names that rights are given for are tried.
            parks: Whether a task is parked and dispatched, too, where tasks can park in the store.

        Returns:
            What fails while locks work all the same, such as one server of a majority; each with its remedy.

        Raises:
            StoreUnavailable: Locks don't work. Its text names the step that failed, what the store answered, and the
                remedy.
        """
        from celery_locks.stores.trial import try_writes

        try_writes(self, prefix, parks=parks)
        return []

    def _forget_trial(self, name: str, ticket_id: str) -> None:
        """Delete what a tried write leaves beyond a released lock. For a store to override.

        Args:
            name: The full name of the throwaway lock.
            ticket_id: The id of the ticket that was parked in it, if one was.
        """

    def warnings(self, *, parks: bool = False) -> list[str]:
        """What `checks` found to be wrong."""
        return [result for result in self.checks(parks=parks).values() if is_warning(result)]

    def close(self) -> None:
        """Gives back connections and files. The store may be used again afterwards."""
