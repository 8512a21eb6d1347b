"""Reports: outcomes in a form that a process of a pool can send to its worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_locks import Outcome, audit, owners
from celery_locks._validation import DEFAULT_STORE
from celery_locks.tasks.messages.header import fields_of

#: The end of a text that was cut.
CUT = "…"


@dataclass(frozen=True)
class Report:
    """An outcome, made of values that JSON has.

    Attributes:
        kind: See `celery_locks.Outcome`.
        key: The key.
        task: The task's name; empty outside a task.
        task_id: The task's id, if it is known.
        owner: The holder's name.
        fencing_token: The lease's fencing token.
        reason: The reason of a loss.
        seconds: How long the lease was waited for (``acquired``) or held (other kinds). The time in which the task's
            message was deferred or parked counts as waiting.
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

    def line(self, most_bytes: int) -> bytes:
        """Return the report as a line. Long texts are cut to fit into this many bytes."""
        parts = list(vars(self).values())  # `astuple` copies deeply, and takes six times as long
        line = json.dumps(parts).encode() + b"\n"
        if len(line) <= most_bytes:
            return line
        most_characters = max(most_bytes // 50, len("contended"))  # up to four long texts, of six bytes a character
        return json.dumps([_cut(part, most_characters) for part in parts]).encode() + b"\n"

    @staticmethod
    def of_line(line: bytes) -> Report:
        """Return the report in a line.

        Raises:
            ValueError, TypeError: The line is malformed.
        """
        return Report(*json.loads(line))


def subscribe(deliver: Callable[[Report], object]) -> Callable[[], None]:
    """Call ``deliver(report)`` for each outcome in this process, until the returned function is called."""
    return audit(lambda outcome: deliver(report_of(outcome)))


def report_of(outcome: Outcome) -> Report:
    """Return the report of an outcome. It must be made in the thread of the outcome."""
    known = owners.task_of(outcome.owner or "")
    task, task_id = known if known is not None else (_task_name(outcome.sender), None)
    seconds = outcome.seconds
    if outcome.kind == "acquired" and seconds is not None and known is not None:
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
    """Return for how many seconds the message of the task's current request was deferred or parked."""
    request = getattr(task, "request", None)
    if request is None:
        return 0.0
    header = fields_of(request)
    since = float(header.get("since", 0.0))
    # Two clocks are compared here: a parked message may come from another machine.
    return float(header.get("waited", 0.0)) + (max(0.0, time.time() - since) if since else 0.0)


def _cut(part: Any, most_characters: int) -> Any:
    return part[:most_characters] + CUT if isinstance(part, str) and len(part) > most_characters else part


def _task_name(sender: Any) -> str:
    """Return the name of a task; an empty text for a lock outside a task."""
    name = getattr(sender, "name", None)
    return name if isinstance(name, str) and hasattr(sender, "lock_options") else ""
