"""Signals and outcomes: how a process reports what happens to its leases.

Receivers of a signal get keyword arguments. ``holders`` are names. ``owner`` is the name that the holder would have
had, ``None`` for host and process id. ``sender`` is the task, or the `Lock` outside a task. The thread that notices an
event sends its signal: for renewals and most losses a thread of this library. So receivers should be short and
thread-safe.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from celery_locks import _logging
from celery_locks._logging import NamedLease
from celery_locks._validation import DEFAULT_STORE
from celery_locks.errors import LossReason
from celery_locks.keys.names import part_of

if TYPE_CHECKING:
    from celery_locks.stores.types import Claim

__all__ = [
    "Signal",
    "on_lock_acquired",
    "on_lock_contended",
    "on_lock_lost",
    "on_lock_released",
    "on_lock_renewed",
    "on_lock_timed_out",
]

logger = _logging.logger(__name__)

Receiver = Callable[..., object]
R = TypeVar("R", bound=Receiver)


class Signal:
    """A list of receivers, with the interface of Celery's signals (whose module would import Celery).

    Args:
        name: The name, for the log.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._changes = threading.RLock()
        #: Replaced, never changed, so `send` needs no lock. Senders on the free path check first that it is not empty.
        self.receivers: tuple[tuple[Callable[[], Receiver | None], Any], ...] = ()

    def __bool__(self) -> bool:
        """Whether there are receivers."""
        return bool(self.receivers)

    @overload
    def connect(self, receiver: R, sender: Any = None, weak: bool = True) -> R: ...
    @overload
    def connect(self, receiver: None = None, sender: Any = None, weak: bool = True) -> Callable[[R], R]: ...
    def connect(self, receiver: Any = None, sender: Any = None, weak: bool = True) -> Any:
        """Call ``receiver`` at every signal. Also a decorator, with arguments or without.

        Args:
            receiver: Called with keyword arguments. It should accept ``**kwargs``, for later versions.
            sender: Only signals of this sender.
            weak: Keep no strong reference: the receiver is removed once nothing else refers to it. Lambdas and local
                functions need ``weak=False``.
        """
        if receiver is None:
            return lambda function: self.connect(function, sender, weak)
        entry = (_reference(receiver, weak), sender)
        with self._changes:
            self.disconnect(receiver, sender)
            self.receivers = (*self.receivers, entry)
        return receiver

    def disconnect(self, receiver: Receiver, sender: Any = None) -> bool:
        """Stop calling ``receiver`` for this sender. Return whether it was connected."""
        with self._changes:
            kept = tuple(entry for entry in self.receivers if not (entry[0]() == receiver and _is(entry[1], sender)))
            found = len(kept) < len(self.receivers)
            self.receivers = kept
        return found

    def send(self, sender: Any, **named: Any) -> None:
        """Call the receivers of this sender. An error of a receiver is logged; the others are called all the same."""
        for reference, wanted in self.receivers:
            receiver = reference()
            if receiver is None:
                with self._changes:
                    self.receivers = tuple(entry for entry in self.receivers if entry[0]() is not None)
            elif wanted is None or _is(wanted, sender):
                try:
                    receiver(sender=sender, **named)
                except Exception:
                    logger.exception("a receiver of %s raised: %r", self.name, receiver)


def _reference(receiver: Receiver, weak: bool) -> Callable[[], Receiver | None]:
    if not weak:
        return lambda: receiver
    try:
        return weakref.WeakMethod(receiver)
    except TypeError:
        return weakref.ref(receiver)


def _is(wanted: Any, sender: Any) -> bool:
    # A Celery task may be known by a proxy, which is equal to it and not the same object.
    return wanted is sender or (wanted is not None and bool(wanted == sender))


on_lock_acquired = Signal("on_lock_acquired")
"""A lease was acquired. Receivers get ``sender``, ``lease``."""
on_lock_contended = Signal("on_lock_contended")
"""A key was not available. Receivers get ``sender``, ``key``, ``holders``, ``owner``, ``store``."""
on_lock_renewed = Signal("on_lock_renewed")
"""A lease was renewed. Receivers get ``sender``, ``lease``."""
on_lock_timed_out = Signal("on_lock_timed_out")
"""The wait for a lease ended with `LockTimeout`. Receivers get ``sender``, ``key``, ``holders``, ``owner``, ``store``.

Sent once for each `LockTimeout`: by ``acquire(timeout)``, and by a run under any policy whose ``max_wait`` is over.
Several keys together are one acquisition: ``key`` is the one that was not available.
"""
on_lock_released = Signal("on_lock_released")
"""A lease was released by its holder. Receivers get ``sender``, ``lease``."""
on_lock_lost = Signal("on_lock_lost")
"""A lease ended before its holder released it. Sent once. Receivers get ``sender``, ``lease``, ``reason``."""


# --- Outcomes: the same events for one function, of all locks of a process or of one lock ---

OutcomeKind = Literal["acquired", "contended", "timed_out", "renewed", "released", "lost"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an acquisition, or an event of a lease.

    Attributes:
        kind: ``acquired``; ``contended`` (not available: the caller waits, or gives up); ``timed_out`` (the wait is
            over); ``renewed`` (for ``on_event`` of a lock only, not for `audit`); ``released``; ``lost`` (the lease
            ended before it was released).
        key: What is locked.
        owner: The name of the holder, or of the caller that did not acquire the key; ``None`` for a process without a
            name.
        fencing_token: The lease's number; ``None`` without a lease.
        reason: Why a lease was lost; ``None`` for other kinds.
        holders: The names of the holders; empty if there is a lease.
        seconds: How long this process waited for the lease (``acquired``), or has held it (``renewed``, ``released``,
            ``lost``); ``None`` without a lease.
        sender: The task, or the `Lock` or `Semaphore` outside a task.
        part: The part of the key of which it is a lease; see `LockInfo.part`.
        store: The name of the store among those of an app: one of the setting ``locks_stores``.
    """

    kind: OutcomeKind
    key: str
    owner: str | None = None
    fencing_token: int | None = None
    reason: LossReason | None = None
    holders: tuple[str, ...] = ()
    seconds: float | None = None
    sender: object = None
    part: str = ""
    store: str = DEFAULT_STORE


OutcomeCallback = Callable[[Outcome], object]


class ReportedLease(NamedLease, Protocol):
    """A lease, as an outcome reports it. The lease itself is built on this module."""

    waited: float
    _claim: Claim
    _store_name: str

    def held_for(self) -> float:
        """Return for how many seconds this process has held it."""


def outcome_of_lease(
    kind: OutcomeKind, lease: ReportedLease, sender: object, reason: LossReason | None = None
) -> Outcome:
    """Return the outcome of an acquisition with a lease."""
    seconds = lease.waited if kind == "acquired" else lease.held_for()
    part = part_of(lease._claim.name)
    store = lease._store_name
    return Outcome(kind, lease.key, lease.owner, lease.fencing_token, reason, (), seconds, sender, part, store)


def outcome_of_key(
    kind: OutcomeKind, key: str, holders: list[str], owner: str | None, sender: object, store: str
) -> Outcome:
    """Return the outcome of an acquisition without a lease."""
    return Outcome(kind, key, owner, holders=tuple(holders), sender=sender, store=store)


def call_on_event(on_event: OutcomeCallback, outcome: Outcome) -> None:
    """Call the ``on_event`` of a lock, and log its error."""
    try:
        on_event(outcome)
    except Exception:
        logger.exception("on_event of %r raised: %r", outcome.key, on_event)


def audit(callback: OutcomeCallback) -> Callable[[], None]:
    """Call ``callback(outcome)`` for every outcome in this process, also those of tasks, until it is disconnected.

    The thread in which the outcome happens calls it, for losses a thread of this library: so it should be short. Its
    errors are logged.

    Returns:
        A function that disconnects the callback.

    Examples:
        >>> stop = audit(lambda outcome: log.info("%s %s %s", outcome.kind, outcome.key, outcome.owner))
        >>> stop()
    """

    def for_lease(kind: OutcomeKind) -> Callable[..., object]:
        def receive(sender: object, lease: ReportedLease, reason: LossReason | None = None, **_: Any) -> None:
            callback(outcome_of_lease(kind, lease, sender, reason))

        return receive

    def for_key(kind: OutcomeKind) -> Callable[..., object]:
        def receive(
            sender: object, key: str, holders: list[str], owner: str | None, store: str = DEFAULT_STORE, **_: Any
        ) -> None:
            callback(outcome_of_key(kind, key, holders, owner, sender, store))

        return receive

    receivers = [
        (on_lock_acquired, for_lease("acquired")),
        (on_lock_contended, for_key("contended")),
        (on_lock_timed_out, for_key("timed_out")),
        (on_lock_released, for_lease("released")),
        (on_lock_lost, for_lease("lost")),
    ]
    for signal, receiver in receivers:
        signal.connect(receiver, weak=False)

    def disconnect() -> None:
        for signal, receiver in receivers:
            signal.disconnect(receiver)

    return disconnect
