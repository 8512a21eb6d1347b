"""The model that the admin and its permissions need. It has no table, since locks are in their store."""

from __future__ import annotations

from typing import Any

from django.db import models


class NoRows(models.Manager):
    """Finds no rows, and uses no database. Commands such as ``dumpdata`` read all models."""

    def get_queryset(self) -> Any:
        """Return no rows."""
        return super().get_queryset().none()


class Lock(models.Model):
    """A key. The permissions are ``celery_locks.view_lock`` and ``celery_locks.release_lock``."""

    key = models.CharField(max_length=255, primary_key=True)
    objects = NoRows()

    class Meta:
        """Permissions, and no table."""

        managed = False
        base_manager_name = "objects"
        default_permissions = ("view",)
        permissions = (("release_lock", "Can release lock"),)

    def __str__(self) -> str:
        return str(self.key)
