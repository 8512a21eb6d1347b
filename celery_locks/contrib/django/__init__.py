"""For Django: ``"celery_locks.contrib.django"`` in ``INSTALLED_APPS`` brings a page in the admin and system checks.

Needs Django 4.2 or newer (extra ``django``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_locks.contrib.django.task import LockedTask

__all__ = ["LockedTask"]


def __getattr__(name: str) -> Any:
    # Later than Django imports its apps: Celery is not needed for that.
    if name != "LockedTask":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from celery_locks.contrib.django.task import LockedTask

    return LockedTask
