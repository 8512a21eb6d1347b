"""How a run ended, by Celery's own rules of acknowledgement: does its message come again?"""

from __future__ import annotations

from enum import Enum
from typing import Any

from celery.exceptions import Ignore, Reject, Retry


class RunEnd(Enum):
    """How a run ended.

    Attributes:
        FINAL: Its message was acknowledged before the run, or there was none: it does not come again.
        STORED: Its message is acknowledged once the result is stored, and comes again if the process dies before.
        REJECTED: Its message is rejected. Only a dead-letter queue can bring it again.
        AGAIN: Its message comes again. Or the process is being stopped: with early acknowledgement the message is gone
            then, and to expect it again is only the safe side.
    """

    FINAL = "final"
    STORED = "stored"
    REJECTED = "rejected"
    AGAIN = "again"


def end_of(task: Any, error: BaseException | None) -> RunEnd:
    """Return how a run of a task ended.

    Args:
        task: The task.
        error: What its body, or what is around it, raised; ``None`` when it returned.
    """
    if error is not None and not isinstance(error, Exception):
        return RunEnd.AGAIN
    if not task.acks_late or task.request.is_eager:
        return RunEnd.FINAL
    if isinstance(error, Reject):
        return RunEnd.AGAIN if error.requeue else RunEnd.REJECTED
    if error is None or isinstance(error, (Ignore, Retry)) or _acknowledges_failure(task):
        return RunEnd.STORED
    return RunEnd.REJECTED


def _acknowledges_failure(task: Any) -> bool:
    # Celery 5.7 has an option of its own for failures; before, one for failures and timeouts.
    return bool(getattr(task, "acks_on_failure", task.acks_on_failure_or_timeout))
