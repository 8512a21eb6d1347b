"""The retry of runs whose lease was lost."""

from __future__ import annotations

from typing import Any

from celery_locks import LockLost
from example_project.shop.database import StaleWriteError

#: Options of a task: a run that loses its lease is aborted and retried. For example its worker was paused for longer
#: than the ttl.
RETRY_AFTER_LOSS: dict[str, Any] = {
    "autoretry_for": (LockLost, StaleWriteError),
    "max_retries": 20,
    "retry_backoff": True,
}
