"""The contract of a store: it keeps leases, and leases end by its clock alone.

For each lock, a store keeps its *holders*: owner token, permits and deadline. It keeps a *line* of waiters, each with a
deadline of its own, and the last fencing token. Every store keeps eight promises:

1. The holders whose deadline has not passed on the store's clock never have more than ``limit`` permits together.
2. Every change is one atomic step, guarded by the owner token. A stale token changes nothing.
3. A fencing token is greater than every earlier one of its lock, also after the lock was idle or deleted.
4. All records expire, and no request scans without a bound.
5. An acquire that is repeated with the same token is the same acquire, so a caller can repeat it after a lost reply.
6. Waiters in line are served first come, first served. A dead waiter or holder is passed over within its ttl.
7. Waiters are woken, not polled, if the store can do so.
8. All records of a lock are under its name. In a Redis Cluster they are in one hash slot.

`celery_locks.testing.StoreCompliance` tests all of them. Run it over your own store.
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
    """A place where leases live. Any thread may call the methods.

    Every method raises `StoreUnavailable` when the store can't be reached or can't serve. Nothing was acquired then.

    The class attributes declare the store's capabilities. A feature that the store lacks is refused with
    `LockConfigError`, and its compliance tests are skipped.
    """

    #: Whether a release ends `wait`. Otherwise `wait` polls.
    wakes = False
    #: For how many tokens `wait_any` can wait at the same time.
    waits_for = 1
    #: Whether `wait` and `wait_any` keep the places in line of their tokens. They end early when a place is lost.
    keeps_places = False
    #: Whether other processes see the leases.
    shared = True
    #: Whether other machines see the leases.
    machines = True
    #: Whether the fencing tokens of a lock grow (promise 3).
    fencing = True
    #: Whether a lock may have a limit above one.
    semaphores = True
    #: Whether waiters in line are served first come, first served (promise 6).
    fair = True
    #: Whether a process is notified promptly when its leases are taken by force: `loss_feed`.
    notices = False
    #: Whether the store keeps values with locks: `write`, `value` and `delete`.
    values = False
    #: Whether the store lists its locks: `page` and `stats`.
    lists = False

    @abstractmethod
    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        """Take permits, by this rule.

        The first case that applies decides. Expired leases and expired places in line do not count.

        1. *The token holds the lock already*: granted again, with the same fencing token and permits. The deadline
           becomes no sooner. So a caller can repeat a request whose reply was lost.
        2. *A newcomer replaced the lease* that the claim adopts, or the lease that an earlier copy of a claim with
           ``adopts`` or ``replaces`` got: refused, with `Refused.replaced`.
        3. *The lease to adopt lives*, and the permits fit in its place: they are no more than that lease has, or no
           more than the limit together with all other holders' permits. Granted, before all in line, and that lease
           ends.
        4. *The claim replaces*, and requests no more permits than its limit: granted, before all in line. Holders lose
           their leases, earliest acquisition first, until there is room.
        5. *There is room*, and no one stands in line before the token. There is room when all held permits and the
           requested ones are no more than the limit of this claim. Granted. The token's place in line ends.
        6. Otherwise refused. With ``line_up`` the token gets a place at the end of the line, or keeps its place for
           longer. It gets no new place when `Claim.max_waiters` others have one; see `Refused.full`.

        `celery_locks.testing` has a table of cases of this rule, which all stores answer alike.

        Args:
            claim: The request.
            line_up: When refused, stand in line for this many seconds. A call before they have passed keeps the place
                for longer. With ``None``, don't line up. A place that the token has is kept until its own deadline.
        """

    @abstractmethod
    def leave(self, name: str, token: str) -> None:
        """Leave the line. If the token was woken already, wake the next waiter."""

    @abstractmethod
    def wait(self, name: str, token: str, timeout: float) -> None:
        """Block until it may be this token's turn, or ``timeout`` seconds have passed. May return early."""

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        """Wait for several places in line, so that one thread serves many waiters; see `wait`.

        Args:
            places: Names and tokens: at least one and at most `waits_for`, all names with the same `waits_with`.
            timeout: For how many seconds at most.

        Returns:
            The tokens whose turn it may be. There may be none, also before the timeout.
        """
        name, token = places[0]
        self.wait(name, token, timeout)
        return (token,)

    def waits_with(self, name: str) -> Hashable:
        """Return the group of a name. `wait_any` waits only for names of one group at the same time.

        A store of several servers overrides this.

        Args:
            name: A lock's full name.
        """
        return None

    @abstractmethod
    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        """Renew leases, all in one round trip.

        Returns:
            For each lease, in order, ``None`` when it was renewed, otherwise the reason:

            - ``expired``: its deadline has passed.
            - ``stolen``: its record is gone, and others hold the lock.
            - ``deleted``: its record is gone.
            - ``replaced``: a newcomer took it by `Claim.replaces`. Known for at least an hour.
            - ``force_released``: it was ended by `force_release`. Known for at least an hour.
            - ``unreachable``: its server could not be reached, so its state is unknown. The caller tries again.
        """

    @abstractmethod
    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        """Release the lease and wake the next in line.

        Args:
            name: The lock's full name.
            token: The owner token.
            value: The value to keep with the lock, written in the same atomic step if the token holds the lock. A
                store that is full releases the lease and keeps the earlier value.

        Returns:
            Whether this call released a lease whose deadline had not passed. The store repeats a request whose reply
            was lost. A repeat that finds no lease can't know whether the first request released it: it returns true.
        """

    def shrink(self, name: str, token: str, permits: int) -> bool:
        """Keep only this many permits of a lease, release the others, and wake the next in line.

        A lease that has no more permits than these stays as it is, so the request may be repeated.

        Args:
            name: The lock's full name.
            token: The owner token.
            permits: How many permits are kept, at least 1.

        Returns:
            Whether the token holds the lock, and its deadline has not passed.
        """
        raise LockConfigError(
            f"{type(self).__name__} has no limits above one, so it can't release some permits of a lease"
        )

    @abstractmethod
    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        """Release a lock by force, and wake the next in line. A parked task's ticket stays as it is.

        The store keeps the reason ``force_released`` for `renew`, for at most `MOST_TAKEN` holders. A store with
        `notices` notifies them.

        Args:
            name: The lock's full name.
            token: The owner token of the only holder to release. If empty, all holders are released.

        Returns:
            The holders that were released, at most `MOST_HOLDERS`. The store may repeat the request after a lost
            reply. The answer is that of one call.
        """

    def serving(self, name: str) -> Store:
        """Return the store that a lock is in. A store of several stores overrides this."""
        return self

    def loss_feed(self, name: str, process: str) -> LossFeed:
        """Return the notices for a process about leases that are taken by force. A store with `notices` overrides this.

        Args:
            name: The full name of a lock. The notices are about all locks with its prefix.
            process: The first digits of the process's owner tokens; see `celery_locks._runtime.tokens`.
        """
        raise LockConfigError(f"{type(self).__name__} sends no notices: losses are noticed at the next renewal")

    @abstractmethod
    def holders(self, name: str) -> tuple[Holder, ...]:
        """Return the holders of a lock, earliest acquisition first, at most `MOST_HOLDERS`."""

    def held(self, name: str) -> int:
        """Return how many permits are held. A store with more than `MOST_HOLDERS` holders for a lock overrides this."""
        return sum(holder.permits for holder in self.holders(name))

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        """Keep a value with a lock, if this token holds the lock.

        Args:
            name: The lock's full name.
            token: The owner token.
            text: The value.
            keep: For how many seconds the value is kept, also after the lease has ended.

        Returns:
            Whether the value was written: ``False`` when the token no longer holds the lock.
        """
        raise LockConfigError(f"{type(self).__name__} keeps no values with its locks")

    def value(self, name: str) -> str | None:
        """Return the value that is kept with a lock, ``None`` for none."""
        raise LockConfigError(f"{type(self).__name__} keeps no values with its locks")

    def delete(self, name: str) -> bool:
        """Delete the value that is kept with a lock, also when others hold the lock.

        Returns:
            Whether there was a value. The store may repeat the request after a lost reply. The answer is that of one
            call.
        """
        raise LockConfigError(f"{type(self).__name__} keeps no values with its locks")

    def info(self, name: str) -> LockInfo:
        """Return the holders and the line of a lock: at most `MOST_HOLDERS` and `MOST_IN_LINE` of them."""
        return LockInfo(name, self.holders(name), self.held(name), 0)

    def page(self, names: NameRange) -> Page:
        """Return the locks of a range of names that are held or waited for, in order.

        The store reads a bounded number of names, and removes from its list the locks that it finds expired.

        Returns:
            At most ``names.count`` locks. There may be fewer, even none, although more follow: the others had expired.
        """
        raise LockConfigError(f"{type(self).__name__} keeps no list of locks: read one key by locks.info(key)")

    def stats(self, prefix: str, near: float) -> Stats:
        """Return figures over all locks whose names begin with ``prefix`` and ``:``, at a bounded cost.

        Args:
            prefix: The beginning of the names.
            near: A lease is near its end when its deadline passes within this many seconds.
        """
        raise LockConfigError(f"{type(self).__name__} keeps no list of locks: read one key by locks.info(key)")

    @abstractmethod
    def ping(self) -> None:
        """Raise `StoreUnavailable` when the store can't serve."""

    def about(self) -> str:
        """Return the kind and the version of the store, for people to read."""
        return type(self).__name__

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        """Check the settings of the store for what could break the promises of leases.

        Args:
            parks: Whether tasks wait in the store, so that it must not forget them.

        Returns:
            The result of each check by the check's name, such as ``"eviction"``. It states the problem and the remedy,
            and is empty when all is well. It begins with ``"not known: "`` when the store could not check.
        """
        return {}

    def try_writes(self, prefix: str, *, parks: bool = False) -> list[str]:
        """Acquire, renew, wait for and release a throwaway lock. A store of several servers overrides this.

        The lock has a random key, so it never meets a lock of the site. It leaves no more than a released lock does.

        Args:
            prefix: The prefix of the site's locks. The store's access rules may be about names with this prefix.
            parks: Whether a task is parked and dispatched, too, if tasks can park in the store.

        Returns:
            Problems that leave locks working, such as one failed server of a majority, each with its remedy.

        Raises:
            StoreUnavailable: Locks don't work. The text names the failed step, the answer, and the remedy.
        """
        from celery_locks.stores.write_check import try_writes

        try_writes(self, prefix, parks=parks)
        return []

    def _forget_trial(self, name: str, ticket_id: str) -> None:
        """Delete the records that `try_writes` leaves in addition to those of a released lock.

        Args:
            name: The full name of the throwaway lock.
            ticket_id: The id of the ticket that was parked in it, if one was.
        """

    def warnings(self, *, parks: bool = False) -> list[str]:
        """Return the problems that `checks` found."""
        return [result for result in self.checks(parks=parks).values() if is_warning(result)]

    def close(self) -> None:
        """Close connections and files. The store may be used again afterwards."""
