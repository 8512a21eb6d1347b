"""A report: an outcome in a form that goes from a pool's process to its worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_locks import Outcome, audit, owners
from celery_locks._validation import DEFAULT_STORE
from celery_locks.tasks.messages.header import fields_of

#: What is told where text was cut.
CUT = "…"


@dataclass(frozen=True)
class Report:
    """An outcome, by values that JSON has.

    Attributes:
        kind: See `celery_locks.Outcome`.
        key: What is locked.
        task: The task's name; empty outside a task.
        task_id: Its id, where it is known.
        owner: The holder's name.
        fencing_token: The lease's number.
        reason: Why it was lost.
        seconds: For how long it was waited for (``acquired``), also while its message was put off or parked; or held.
        at: When, in seconds since 1970.
        part: The part of the key; see `LockInfo.part`.
        store: The name of the store.
    """

    kind: str
    key: str
    task: str
    task_id: str | None
    owner: str | None
    fencing_token: int | None
    reason: str | None
    seconds: float | None
    at: float
    part: str = ""
    store: str = DEFAULT_STORE

    def line(self, most: int) -> bytes:
        """The report as a line of at most so many bytes: what is too long for that is cut."""
        parts = list(vars(self).values())  # `astuple` copies deeply, at six times the price
        line = json.dumps(parts).encode() + b"\n"
        if len(line) <= most:
            return line
        letters = max(most // 50, len("contended"))  # a letter takes six bytes at most, and four texts may be long
        return json.dumps([_cut(part, letters) for part in parts]).encode() + b"\n"

    @staticmethod
    def of_line(line: bytes) -> Report:
        """The report of a line.

        Raises:
            ValueError, TypeError: It is none.
        """
        return Report(*json.loads(line))


def hear(deliver: Callable[[Report], object]) -> Callable[[], None]:
    """Calls ``deliver(report)`` for each outcome in this process. Returns a function that stops it."""
    return audit(lambda outcome: deliver(report_of(outcome)))


def report_of(outcome: Outcome) -> Report:
    """The report of an outcome, made in the thread where that happened."""
    named = owners.task_of(outcome.owner or "")
    task, task_id = named if named is not None else (_name(outcome.sender), None)
    seconds = outcome.seconds
    if outcome.kind == "acquired" and seconds is not None and named is not None:
        seconds += waited_before(outcome.sender)
    return Report(
        outcome.kind,
        outcome.key,
        task,
        task_id,
        outcome.owner,
        outcome.fencing_token,
        outcome.reason,
        seconds,
        time.time(),
        outcome.part,
        outcome.store,
    )


def waited_before(task: Any) -> float:
    """Return for how many seconds the message of the task's present request was deferred or parked."""
    request = getattr(task, "request", None)
    if request is None:
        return 0.0
    ours = fields_of(request)
    since = float(ours.get("since", 0.0))
    # By two machines' clocks: a parked message may have come from another.
    return float(ours.get("waited", 0.0)) + (max(0.0, time.time() - since) if since else 0.0)


def _cut(part: Any, letters: int) -> Any:
    return part[:letters] + CUT if isinstance(part, str) and len(part) > letters else part


def _name(sender: Any) -> str:
    """The name of a task; a lock outside a task has none."""
    name = getattr(sender, "name", None)
    return name if isinstance(name, str) and hasattr(sender, "lock_options") else ""
