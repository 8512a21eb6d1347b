"""The configuration of the Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class LocksConfig(AppConfig):
    """The app of ``"celery_locks.contrib.django"`` in ``INSTALLED_APPS``."""

    name = "celery_locks.contrib.django"
    label = "celery_locks"
    verbose_name = "Locks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks. Django calls it."""
        from celery_locks.contrib.django.checks import check_settings_of_locks, check_store_of_locks

        checks.register(check_settings_of_locks, "celery_locks")
        # Only with --deploy, since it reads the store, for which `runserver` should not wait.
        checks.register(check_store_of_locks, "celery_locks", deploy=True)
