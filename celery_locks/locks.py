"""`Locks`, the way to leases outside tasks, and `Lock`, one key of it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from celery_locks import signals
from celery_locks.clock import Clock, system_clock
from celery_locks.errors import LockConfigError, LockError, LockKeyError, LockNotOwned, LockTimeout, StoreUnavailable
from celery_locks.keys import check_key
from celery_locks.lease import Lease
from celery_locks.renewal import keeper
from celery_locks.settings import DEFAULT_PREFIX, DEFAULT_TTL, checked, checked_ttl, renewal_interval, seconds_of
from celery_locks.stores import mask, open_store
from celery_locks.stores.base import Claim, Granted, Holder, Refused, Store

T = TypeVar("T")

#: A waiter that has not confirmed its place in line for so many seconds is passed over.
PLACE_KEPT = 10.0


class Locks:
    """Locks in a store.

    Args:
        store: A store's URL or a `Store`; without one the variable ``CELERY_LOCKS_URL`` names it.
        prefix: What all names in the store begin with. Locks of different prefixes never meet.
        owner: The holder's name that others see; host and process id by default.
        clock: What the deadlines of leases are watched by (tests pass one that they can move).

    Raises:
        LockConfigError: There is no URL, or it names no store.
    """

    def __init__(
        self,
        store: str | Store | None = None,
        *,
        prefix: str = DEFAULT_PREFIX,
        owner: str | None = None,
        clock: Clock = system_clock,
    ) -> None:
        store = store or os.environ.get("CELERY_LOCKS_URL")
        if not store:
            raise LockConfigError(NO_STORE)
        if not prefix or "{" in prefix or "}" in prefix:
            raise LockConfigError(f"the prefix must be some text without braces, not {prefix!r}")
        self.store = open_store(store) if isinstance(store, str) else store
        self.url = mask(store) if isinstance(store, str) else type(store).__name__
        self.prefix = prefix
        self.owner = owner
        self.clock = clock

    @classmethod
    def from_app(cls, app: Any) -> Locks:
        """The locks of a Celery app, in the store that its settings name.

        These are, the first that is set: ``locks_url``, the variable ``CELERY_LOCKS_URL``, the result backend, the
        broker (the last two if they are Redis or Valkey). ``locks_prefix`` is the prefix.

        Raises:
            LockConfigError: None is set.
        """
        return cls(store_url(app.conf), prefix=app.conf.get("locks_prefix", DEFAULT_PREFIX))

    def lock(
        self,
        key: str,
        ttl: float = DEFAULT_TTL,
        renew: bool | float = True,
        *,
        max_hold: float | None = None,
        owner: str | None = None,
    ) -> Lock:
        """The lock of a key. Nothing is acquired yet.

        Args:
            key: What to lock: any text that is not empty.
            ttl: How long a lease lives without renewal, in seconds (or a ``timedelta``).
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the seconds between renewals.
            max_hold: The longest holding in seconds; then renewal stops and the lease is lost.
            owner: The holder's name that others see.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: Another argument is wrong.
        """
        terms = Terms(checked_ttl(ttl), checked("renew", renew), checked("max_hold", max_hold))
        return Lock(self, check_key(key), terms, owner)

    def restore(self, text: str) -> Lease:
        """The lease of `Lease.serialize`, in this process: confirmed by the store, and watched, but not renewed here.

        Raises:
            LockNotOwned: The lease is held no more.
            LockKeyError: The text is not that of a lease.
        """
        lease = self._read(text)
        if self.store.renew([lease.renewal(self.clock.now())])[0] is not None:
            raise LockNotOwned(f"the lease of {lease.key!r} is held no more", lease.key)
        keeper().keep(lease, None)
        return lease

    def _read(self, text: str) -> Lease:
        sent = self.clock.now()
        try:
            data = json.loads(text)
            key, owner, token = check_key(data["key"]), _of(str, data["owner"]), _of(str, data["token"])
            limit, permits = checked("limit", data["limit"]), checked("permits", data["permits"])
            max_hold = checked("max_hold", data.get("hold_left"))
            claim = Claim(self.name(key), token, owner, checked_ttl(data["ttl"]), limit, permits)
            fencing_token = _of(int, data["fencing_token"])
        except (LockError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise LockKeyError(f"this is not the text of a lease: {type(error).__name__}: {error}") from error
        return Lease(self.store, claim, key, fencing_token, sent, max_hold=max_hold, clock=self.clock)

    def close(self) -> None:
        """Gives back connections and files."""
        self.store.close()

    def name(self, key: str) -> str:
        """The full name of a key in the store: the braces keep all of one lock in one slot of a Redis Cluster."""
        # A key that begins with "}" would leave the braces empty, and an empty pair of braces counts for nothing. With
        # "=" before it, and before one that begins so itself, no two keys have one name. What a store adds for its
        # other records (":line") can't make the name of another key, since every name ends with a brace.
        return f"{self.prefix}:{{{key}}}" if key[0] not in "}=" else f"{self.prefix}:{{=}}{key}}}"


@dataclass(frozen=True)
class Terms:
    """On what terms a lease is had; see `Locks.lock`."""

    ttl: float = DEFAULT_TTL
    renew: bool | float = True
    max_hold: float | None = None
    limit: int = 1
    permits: int = 1

    def __post_init__(self) -> None:
        renewal_interval(self.ttl, self.renew)

    @property
    def interval(self) -> float | None:
        """Seconds between renewals, ``None`` for none."""
        return renewal_interval(self.ttl, self.renew)

    @property
    def first_ttl(self) -> float:
        """For how long the lease is asked for at first, in seconds."""
        return self.ttl if self.max_hold is None else min(self.ttl, self.max_hold)


class Lock:
    """One key. May be shared by threads; each acquisition is a `Lease` of its own.

    As a context manager it waits as long as it takes, and raises `LockLost` at the end when the lease was lost
    within.
    """

    def __init__(self, locks: Locks, key: str, terms: Terms, owner: str | None = None, sender: object = None) -> None:
        self.key = key
        self.terms = terms
        self.name = locks.name(key)
        self._locks = locks
        self._store = locks.store
        self._owner = owner or locks.owner
        self._sender = sender or self
        self._entered = threading.local()

    def __repr__(self) -> str:
        return f"<Lock {self.key!r} at {self._locks.url}>"

    def acquire(self, timeout: float | None = None, claim: Claim | None = None) -> Lease:
        """Waits in line, first come first served, until the key is free.

        Args:
            timeout: The longest waiting in seconds (or a ``timedelta``); ``None`` for as long as it takes, 0 for a
                single try.
            claim: A claim of `claim`, for callers that must know the owner token beforehand.

        Raises:
            LockTimeout: It was still held by others when the time was over.
            StoreUnavailable: The store can't be reached, or took longer to answer than the lease lives; nothing was
                acquired.
        """
        until = None if timeout is None else self._locks.clock.now() + checked_timeout(timeout)
        claim = claim or self.claim()
        try:
            return self._wait_in_line(claim, until)
        except LockTimeout:
            raise
        except BaseException:
            self._undo(claim)
            raise

    def try_acquire(self) -> Lease | None:
        """The lease, or ``None`` when others hold the key or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        answer = self.attempt()
        return answer if isinstance(answer, Lease) else None

    def attempt(self, claim: Claim | None = None) -> Lease | Refused:
        """Like `try_acquire`, with the store's answer where the lease was not to be had."""
        claim, sent = claim or self.claim(), self._locks.clock.now()
        try:
            answer = self._store.acquire(claim)
            if isinstance(answer, Granted):
                return self._granted(claim, answer, sent)
        except BaseException:
            self._undo(claim)
            raise
        self._contended(answer)
        return answer

    def run(self, function: Callable[..., T], *args: Any, timeout: float | None = None, **kwargs: Any) -> T:
        """Calls the function under the lock and returns what it returns.

        Args:
            function: What to call with the arguments.
            timeout: The longest waiting for the key, in seconds.

        Raises:
            LockTimeout: The key was not to be had in time.
            LockLost: The lease was lost while the function ran.
        """
        lease = self.acquire(timeout)
        try:
            result = function(*args, **kwargs)
        except BaseException:
            self._leave(lease, quiet=True)
            raise
        self._leave(lease)
        return result

    def locked(self) -> bool:
        """Whether anybody holds the key."""
        return bool(self.holders())

    def holders(self) -> tuple[Holder, ...]:
        """Those who hold the key now."""
        return self._store.holders(self.name)

    def force_release(self) -> tuple[Holder, ...]:
        """Takes the key from whoever holds it; they learn it at their next renewal.

        Returns:
            Those who held it.
        """
        return self._store.force_release(self.name)

    def __enter__(self) -> Lease:
        lease = self.acquire()
        if not hasattr(self._entered, "leases"):
            self._entered.leases = []
        self._entered.leases.append(lease)
        return lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self._entered.leases.pop(), quiet=kind is not None)

    @staticmethod
    def _leave(lease: Lease, quiet: bool = False) -> None:
        if not release_or_later(lease) and lease.lost and not quiet:
            raise lease.lost_error()

    def _wait_in_line(self, claim: Claim, until: float | None) -> Lease:
        clock, contended = self._locks.clock, False
        while True:
            sent = clock.now()
            left = PLACE_KEPT if until is None else until - sent
            answer = self._store.acquire(claim, PLACE_KEPT if left > 0 else None)
            if isinstance(answer, Granted):
                return self._granted(claim, answer, sent)
            if not contended:
                contended = True
                self._contended(answer)
            if left <= 0:
                if answer.position is not None:
                    self._store.leave(claim.name, claim.token)
                names = holder_names(answer)
                raise LockTimeout(f"{self.key!r} was not to be had in time: {who_holds(names)}", self.key, names)
            self._store.wait(claim.name, claim.token, max(0.0, min(answer.retry_in, left, PLACE_KEPT / 3)))

    def claim(self) -> Claim:
        """What one acquisition of this lock asks for, with an owner token of its own."""
        terms = self.terms
        owner = self._owner or this_process()
        return Claim(self.name, secrets.token_hex(16), owner, terms.first_ttl, terms.limit, terms.permits)

    def _granted(self, claim: Claim, granted: Granted, sent: float) -> Lease:
        lease = Lease(
            self._store,
            claim,
            self.key,
            granted.fencing_token,
            sent,
            max_hold=self.terms.max_hold,
            sender=self._sender,
            clock=self._locks.clock,
        )
        if not lease.remaining():
            raise StoreUnavailable(
                f"the lock store took longer to answer than the {claim.ttl:g} s that a lease of {self.key!r} lives",
                self.key,
            )
        keeper().keep(lease, self.terms.interval)
        if signals.on_lock_acquired:
            signals.on_lock_acquired.send(self._sender, lease=lease)
        return lease

    def _undo(self, claim: Claim) -> None:
        """Gives back what an acquisition that failed may have got all the same."""
        # The store may have said yes while the reply was lost, or while this thread was interrupted.
        lease = keeper().kept(claim.token)
        if lease is None:
            keeper().release_later(self._store, claim.name, claim.token, claim.ttl)
        else:
            release_or_later(lease)

    def _contended(self, refused: Refused) -> None:
        if signals.on_lock_contended:
            signals.on_lock_contended.send(self._sender, key=self.key, holders=holder_names(refused))


NO_STORE = (
    "no lock store is set: set locks_url (in Celery's settings) or the variable CELERY_LOCKS_URL to a store's address, "
    "such as redis://localhost:6379/1 or sqlite:////var/lib/locks.db"
)
_REDIS = ("redis://", "rediss://", "redis+socket://", "valkey://", "valkeys://", "unix://")


def store_url(conf: Mapping[str, Any]) -> str:
    """The address of the lock store that Celery's settings name; see `Locks.from_app`."""
    url = conf.get("locks_url") or os.environ.get("CELERY_LOCKS_URL")
    if url:
        return str(url)
    for setting in ("result_backend", "broker_url"):
        value = conf.get(setting)
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        first = first.split(";")[0] if isinstance(first, str) else ""
        if first.startswith(_REDIS):
            return first
    raise LockConfigError(NO_STORE)


def release_or_later(lease: Lease) -> bool:
    """Releases a lease, in the background where the store can't be reached now.

    Returns:
        Whether it was held until now.
    """
    held, left = lease.held, lease.remaining()
    try:
        return lease.release()
    except BaseException as error:  # also when this thread is stopped while it waits for the store
        keeper().release_lease_later(lease, left)
        if not isinstance(error, StoreUnavailable):
            raise
        return held


def checked_timeout(timeout: Any) -> float:
    """A waiting time in seconds; one below 0 is 0.

    Raises:
        LockConfigError: It is no number and no ``timedelta``.
    """
    return max(0.0, seconds_of("timeout", timeout))


def _of(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def holder_names(refused: Refused) -> list[str]:
    """The names of those who hold a key."""
    return [holder.owner for holder in refused.holders]


def who_holds(names: list[str]) -> str:
    """The end of a sentence that says who holds a key."""
    return f"it is held by {', '.join(names)}" if names else "others are before in line"


_this_process: tuple[int, str] = (0, "")


def this_process() -> str:
    """Host and process id."""
    global _this_process
    if _this_process[0] != os.getpid():
        _this_process = (os.getpid(), f"{socket.gethostname()}:{os.getpid()}")
    return _this_process[1]
