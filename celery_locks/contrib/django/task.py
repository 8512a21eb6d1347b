"""The base class of locked tasks in a Django project."""

from __future__ import annotations

from celery.contrib.django.task import DjangoTask

from celery_locks.tasks import LockedTask as PlainLockedTask


class LockedTask(PlainLockedTask, DjangoTask):
    """A locked task with Celery's ``delay_on_commit`` and ``apply_async_on_commit``.

    A lease of the call is taken when the transaction has been committed, and not at all when it is rolled back.
    """

    abstract = True
