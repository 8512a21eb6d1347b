"""What a task does whose lease was lost."""

from __future__ import annotations

from typing import Any

from celery_locks import LockLost
from example_project.shop.database import StaleWriteError

#: A run whose lease was lost (its worker was stopped for longer than the ttl, say) is stopped, and begins anew.
AGAIN: dict[str, Any] = {
    "autoretry_for": (LockLost, StaleWriteError),
    "max_retries": 20,
    "retry_backoff": True,
}
