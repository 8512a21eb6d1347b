"""A Django app with a page of locks in the admin, system checks, and a base class of tasks.

Add ``"celery_locks.contrib.django"`` to ``INSTALLED_APPS``. It needs Django 4.2 or newer (extra ``django``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_locks.contrib.django.task import LockedTask

__all__ = ["LockedTask"]


def __getattr__(name: str) -> Any:
    # Not at the import, since Django imports its apps before Celery is needed.
    if name != "LockedTask":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from celery_locks.contrib.django.task import LockedTask

    return LockedTask
