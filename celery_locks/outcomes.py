"""Every outcome of every lock of this process, told to one function: for a log, a table, a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from celery_locks import signals
from celery_locks.errors import LossReason
from celery_locks.lease import Lease
from celery_locks.names import part_of

OutcomeKind = Literal["acquired", "contended", "timed_out", "released", "lost"]


@dataclass(frozen=True)
class Outcome:
    """What became of an acquisition or a lease.

    Attributes:
        kind: ``acquired``; ``contended`` (not to be had at once: it waits, or gives up); ``timed_out`` (the waiting was
            over); ``released``; ``lost`` (it ended before it was released).
        key: What is locked.
        owner: The name of the holder, or of who was not to be one; ``None`` for a process without a name.
        fencing_token: The lease's number; ``None`` without a lease.
        reason: Why a lease was lost, else ``None``.
        holders: Who held the key instead, where there is no lease.
        seconds: For how long it was waited for by this process (``acquired``), or held (``released``, ``lost``);
            ``None`` without a lease.
        sender: The task, or the `Lock` or `Semaphore` outside a task.
        part: The part of the key of which it is a lease; see `LockInfo.part`.
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


def audit(callback: Callable[[Outcome], object]) -> Callable[[], None]:
    """Calls ``callback(outcome)`` for every outcome in this process, of tasks too, until it is disconnected.

    It is called by the thread in which the outcome happens, losses by one of this library: be quick. What it raises is
    logged and disturbs nothing.

    Returns:
        A function that disconnects it.

    Examples:
        >>> stop = audit(lambda outcome: log.info("%s %s %s", outcome.kind, outcome.key, outcome.owner))
        >>> stop()
    """

    def of_lease(kind: OutcomeKind) -> Callable[..., object]:
        def tell(sender: object, lease: Lease, reason: LossReason | None = None, **_: Any) -> None:
            seconds = lease.waited if kind == "acquired" else lease.held_for()
            part = part_of(lease.claim.name)
            callback(Outcome(kind, lease.key, lease.owner, lease.fencing_token, reason, (), seconds, sender, part))

        return tell

    def of_key(kind: OutcomeKind) -> Callable[..., object]:
        def tell(sender: object, key: str, holders: list[str], owner: str | None = None, **_: Any) -> None:
            callback(Outcome(kind, key, owner, holders=tuple(holders), sender=sender))

        return tell

    receivers = [
        (signals.on_lock_acquired, of_lease("acquired")),
        (signals.on_lock_contended, of_key("contended")),
        (signals.on_lock_timed_out, of_key("timed_out")),
        (signals.on_lock_released, of_lease("released")),
        (signals.on_lock_lost, of_lease("lost")),
    ]
    for signal, receiver in receivers:
        signal.connect(receiver, weak=False)

    def disconnect() -> None:
        for signal, receiver in receivers:
            signal.disconnect(receiver)

    return disconnect
