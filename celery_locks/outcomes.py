"""What becomes of acquisitions and leases, for one function: of all locks of this process, or of one lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from celery_locks import _logging, signals
from celery_locks._protocols import ReportedLease
from celery_locks._validation import DEFAULT_STORE
from celery_locks.errors import LossReason
from celery_locks.keys.names import part_of

logger = _logging.logger(__name__)

OutcomeKind = Literal["acquired", "contended", "timed_out", "renewed", "released", "lost"]


@dataclass(frozen=True)
class Outcome:
    """What became of an acquisition or a lease.

    Attributes:
        kind: ``acquired``; ``contended`` (not available: it waits, or gives up); ``timed_out`` (the wait is over);
            ``renewed`` (for ``on_event`` of a lock only, not for `audit`); ``released``; ``lost`` (it ended before it
            was released).
        key: What is locked.
        owner: The name of the holder, or of who was not to be one; ``None`` for a process without a name.
        fencing_token: The lease's number; ``None`` without a lease.
        reason: Why a lease was lost, else ``None``.
        holders: Who held the key instead, where there is no lease.
        seconds: For how long this process waited for it (``acquired``), or has held it (``renewed``, ``released``,
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


def of_lease(kind: OutcomeKind, lease: ReportedLease, sender: object, reason: LossReason | None = None) -> Outcome:
    """Return the outcome of a lease."""
    seconds = lease.waited if kind == "acquired" else lease.held_for()
    part = part_of(lease._claim.name)
    store = lease._store_name
    return Outcome(kind, lease.key, lease.owner, lease.fencing_token, reason, (), seconds, sender, part, store)


def of_key(kind: OutcomeKind, key: str, holders: list[str], owner: str | None, sender: object, store: str) -> Outcome:
    """Return the outcome of an acquisition without a lease."""
    return Outcome(kind, key, owner, holders=tuple(holders), sender=sender, store=store)


def call(on_event: OutcomeCallback, outcome: Outcome) -> None:
    """Call the hook of a lock. What it raises is logged."""
    try:
        on_event(outcome)
    except Exception:
        logger.exception("on_event of %r raised: %r", outcome.key, on_event)


def audit(callback: OutcomeCallback) -> Callable[[], None]:
    """Calls ``callback(outcome)`` for every outcome in this process, of tasks too, until it is disconnected.

    It is called by the thread in which the outcome happens, losses by one of this library: be quick. What it raises is
    logged and disturbs nothing.

    Returns:
        A function that disconnects it.

    Examples:
        >>> stop = audit(lambda outcome: log.info("%s %s %s", outcome.kind, outcome.key, outcome.owner))
        >>> stop()
    """

    def about_lease(kind: OutcomeKind) -> Callable[..., object]:
        def tell(sender: object, lease: ReportedLease, reason: LossReason | None = None, **_: Any) -> None:
            callback(of_lease(kind, lease, sender, reason))

        return tell

    def about_key(kind: OutcomeKind) -> Callable[..., object]:
        def tell(sender: object, key: str, holders: list[str], owner: str | None, store: str, **_: Any) -> None:
            callback(of_key(kind, key, holders, owner, sender, store))

        return tell

    receivers = [
        (signals.on_lock_acquired, about_lease("acquired")),
        (signals.on_lock_contended, about_key("contended")),
        (signals.on_lock_timed_out, about_key("timed_out")),
        (signals.on_lock_released, about_lease("released")),
        (signals.on_lock_lost, about_lease("lost")),
    ]
    for signal, receiver in receivers:
        signal.connect(receiver, weak=False)

    def disconnect() -> None:
        for signal, receiver in receivers:
            signal.disconnect(receiver)

    return disconnect
