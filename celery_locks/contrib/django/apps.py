"""The app, as Django knows it."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class LocksConfig(AppConfig):
    """For ``INSTALLED_APPS``."""

    name = "celery_locks.contrib.django"
    label = "celery_locks"
    verbose_name = "Locks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Registers the checks (Django calls it)."""
        from celery_locks.contrib.django.checks import check_settings_of_locks, check_store_of_locks

        checks.register(check_settings_of_locks, "celery_locks")
        # It asks the store: nothing that every `runserver` should wait for.
        checks.register(check_store_of_locks, "celery_locks", deploy=True)
