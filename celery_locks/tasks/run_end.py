"""How a run ended, which decides by Celery's rules of acknowledgement whether its message comes again."""

from __future__ import annotations

from enum import Enum
from typing import Any

from celery.exceptions import Ignore, Reject, Retry


class RunEnd(Enum):
    """How a run ended.

    Attributes:
        FINAL: The message was acknowledged before the run, or there was none. It does not come again.
        STORED: The message is acknowledged when the result is stored, and comes again if the process dies before.
        REJECTED: The message is rejected. Only a dead-letter queue can bring it again.
        AGAIN: The message comes again, or the process is being stopped. With early acknowledgement the message does not
            come again, but to expect it is safe.
    """

    FINAL = "final"
    STORED = "stored"
    REJECTED = "rejected"
    AGAIN = "again"


def end_of(task: Any, error: BaseException | None) -> RunEnd:
    """Return how a run ended, by the error that the body or its wrappers raised; ``None`` if they returned."""
    if error is not None and not isinstance(error, Exception):
        return RunEnd.AGAIN
    if not task.acks_late or task.request.is_eager:
        return RunEnd.FINAL
    if isinstance(error, Reject):
        return RunEnd.AGAIN if error.requeue else RunEnd.REJECTED
    # Celery 5.7 has an option for failures alone. Older releases have one for failures and timeouts.
    acknowledges_failure = getattr(task, "acks_on_failure", task.acks_on_failure_or_timeout)
    if error is None or isinstance(error, (Ignore, Retry)) or acknowledges_failure:
        return RunEnd.STORED
    return RunEnd.REJECTED
