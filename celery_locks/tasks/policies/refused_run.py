"""A run that found its key held, and all that is known about it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from celery import Task

from celery_locks.errors import LockContended, StoreUnavailable
from celery_locks.lease import Lease
from celery_locks.lock import Lock, describe_holders, holder_names
from celery_locks.settings import LockOptions
from celery_locks.stores.types import Claim, Refused, Renewal
from celery_locks.tasks.messages.header import fields_of


@dataclass
class RefusedRun:
    """A run that found its key held.

    Attributes:
        task: The task.
        lock: The lock that it needs.
        claim: The claim that was sent to the store.
        options: The task's lock options.
        args: The arguments of the call.
        kwargs: Its keyword arguments.
        refused: The store's answer.
        ticket: The id of the ticket by which the lease was acquired, or which left the line; empty for none.
        left_line: Whether the ticket left the line. The run ends the task, and then the ticket.
    """

    task: Task
    lock: Lock
    claim: Claim
    options: LockOptions
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    refused: Refused = field(default_factory=lambda: Refused((), 0.0))
    ticket: str = ""
    left_line: bool = False

    @property
    def key(self) -> str:
        """The key."""
        return self.lock.key

    @property
    def holder_names(self) -> list[str]:
        """The names of the holders."""
        return holder_names(self.refused)

    @property
    def deferrals(self) -> int:
        """How often the message was deferred before."""
        return int(fields_of(self.task.request).get("deferrals", 0))

    @property
    def waited(self) -> float:
        """The seconds that the message waited while it was deferred."""
        return float(fields_of(self.task.request).get("waited", 0.0))

    @property
    def local(self) -> bool:
        """Whether there is no message that could be published again: an eager run, or an item of a map."""
        return is_local(self.task.request)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a log line."""
        return {"key": self.key, "owner": self.claim.owner, "holders": self.holder_names}

    def error(self) -> LockContended:
        """Return the error that names the holders."""
        names = self.holder_names
        return LockContended(f"{self.key!r} is not available: {describe_holders(names)}", self.key, names)

    def keep_call(self, pause: float) -> None:
        """Renew the lease of the task's call, so that it lasts while the message waits ``pause`` seconds more."""
        header = fields_of(self.task.request)
        if "token" in header and "lasting" not in header:
            with suppress(StoreUnavailable):
                self.lock._store.renew([Renewal(header["lock"], header["token"], self.options.ttl + pause)])

    def attempt(self) -> Lease | Refused:
        """Ask for the lease once."""
        answer = self.lock._attempt(self.claim)
        if isinstance(answer, Refused):
            self.refused = answer
        return answer


def is_local(request: Any) -> bool:
    """Return whether a request has no message that could be published again: an eager run, or an item of a map."""
    return bool(request.is_eager or request.called_directly)
