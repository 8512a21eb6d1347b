"""System checks for problems that would break locks, each with its remedy.

- ``celery_locks.E001``: there is no Celery app when Django is ready
- ``celery_locks.E002``: a setting or a task's option is wrong
- ``celery_locks.E003``: no store is set, or the address of a store can't be read
- ``celery_locks.W001``: only one process can use a store, without ``DEBUG``
- ``celery_locks.W002``: a store can't be reached (``--deploy``)
- ``celery_locks.W003``: the configuration of a store or of the broker may break locks (``--deploy``)

All stores in ``locks_stores`` are checked.
"""

from __future__ import annotations

from typing import Any

from celery import current_app
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from celery_locks import LockConfigError, LockError, Locks, StoreUnavailable
from celery_locks._addresses import mask_text
from celery_locks.locks import store_names
from celery_locks.tasks._celery_patches import active_apps
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.settings_check import check_settings
from celery_locks.tasks.worker import checks


def check_settings_of_locks(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Check settings and tasks, without connecting to a store."""
    if not active_apps():
        return [
            Error(
                "There is no Celery app when Django is ready.",
                hint="Import it in the __init__.py of the project, as described in Celery's documentation for Django.",
                id="celery_locks.E001",
            )
        ]
    app = current_app._get_current_object()
    try:
        check_settings(app.conf)
        app.finalize(auto=True)
        checks.locked_tasks(app)
    except LockError as error:
        hint = 'Correct it. With namespace="CELERY" the setting locks_ttl is CELERY_LOCKS_TTL in Django\'s settings.'
        return [Error(_text(error), hint=hint, id="celery_locks.E002")]
    return [found for store in store_names(app.conf) for found in _check_address(app, store)]


def _check_address(app: Any, store: str) -> list[CheckMessage]:
    try:
        return _check_sharing(locks_for(app, store))
    except LockConfigError as error:
        hint = 'Set CELERY_LOCKS_URL in Django\'s settings (with namespace="CELERY"), such as redis://localhost:6379/1.'
        return [Error(_text(error), hint=hint, id="celery_locks.E003")]


def check_store_of_locks(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Check the configuration of stores and broker, for ``manage.py check --deploy``. This reads the stores."""
    app = current_app._get_current_object()
    try:
        app.finalize(auto=True)
        tasks = checks.locked_tasks(app)
        stores = store_names(app.conf)
    except LockError:
        return []  # the other check reports it
    return [found for store in stores for found in _check_store(app, store, tasks)]


def _check_store(app: Any, store: str, tasks: list[Any]) -> list[CheckMessage]:
    own = [task for task in tasks if task.lock_options.store == store]
    try:
        locks = locks_for(app, store)
        locks.store.ping()
        warnings = checks.warnings(app, locks.store, own)
    except StoreUnavailable as error:
        hint = "Start it, or set CELERY_LOCKS_URL to where it is. Until then locked tasks are deferred."
        return [Warning(_text(error), hint=hint, id="celery_locks.W002")]
    except LockError:
        return []  # the other check reports it
    return [_warning(mask_text(warning)) for warning in warnings]


def _check_sharing(locks: Locks) -> list[CheckMessage]:
    if locks.store.shared or settings.DEBUG:
        return []
    return [
        Warning(
            f"Only this process can use the lock store {locks.url}: workers and web processes don't see its locks.",
            hint="Set CELERY_LOCKS_URL, or its address in CELERY_LOCKS_STORES, to a store that they share, such as "
            "redis:// or sqlite:// with a path.",
            id="celery_locks.W001",
        )
    ]


def _warning(text: str) -> CheckMessage:
    """Return a warning of a text that ends with the remedy."""
    problem, _, remedy = text.partition(". ")
    return Warning(f"{problem}.", hint=remedy or "Run `celery -A … locks doctor` for details.", id="celery_locks.W003")


def _text(error: Exception) -> str:
    text = mask_text(getattr(error, "message", str(error))).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
