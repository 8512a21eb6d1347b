"""The base class of locked tasks in a Django project."""

from __future__ import annotations

from celery.contrib.django.task import DjangoTask

from celery_locks.tasks import LockedTask as PlainLockedTask


class LockedTask(PlainLockedTask, DjangoTask):
    """A locked task with Celery's ``delay_on_commit`` and ``apply_async_on_commit``.

    A scope that begins at the call acquires its lease after the commit. After a rollback it acquires none.
    """

    abstract = True
