"""Locked tasks: the layer that knows Celery."""

from celery_locks.tasks.decorator import single_instance
from celery_locks.tasks.option_types import LockKeywords
from celery_locks.tasks.policies.base import Contention, ContentionPolicy, Skipped
from celery_locks.tasks.run import current_lease
from celery_locks.tasks.task import LockedTask

__all__ = [
    "Contention",
    "ContentionPolicy",
    "LockKeywords",
    "LockedTask",
    "Skipped",
    "current_lease",
    "single_instance",
]
