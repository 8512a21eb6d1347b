"""What the admin and its permissions need for a model. There is no table: locks are in their store."""

from __future__ import annotations

from typing import Any

from django.db import models


class NoRows(models.Manager):
    """Finds nothing, and asks no database: commands such as ``dumpdata`` go through all models."""

    def get_queryset(self) -> Any:
        return super().get_queryset().none()


class Lock(models.Model):
    """A key. The permissions are ``celery_locks.view_lock`` and ``celery_locks.release_lock``."""

    key = models.CharField(max_length=255, primary_key=True)
    objects = NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions = ("view",)
        permissions = (("release_lock", "Can release lock"),)

    def __str__(self) -> str:
        return str(self.key)
