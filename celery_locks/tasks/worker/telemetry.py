"""Metrics, events and traces in a worker: their settings, and the start of the enabled ones.

Their modules are loaded only if a setting enables them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from celery.signals import worker_process_init

from celery_locks.errors import LockConfigError
from celery_locks.locks import Locks
from celery_locks.tasks.app_settings import EVENTS, METRICS_PORT, TRACES

#: The environment variable that enables spans in the pool's processes that are not forked.
TRACES_VARIABLE = "CELERY_LOCKS_TRACES"
#: Whether telemetry has begun in this process, or in one that it was forked from.
_has_begun = threading.Event()


def begin(worker: Any, stores: Mapping[str, Locks]) -> Any:
    """Start the telemetry that the app's settings enable, before the pool's processes are made.

    Raises:
        LockConfigError: A package for it is not installed.
    """
    _has_begun.set()
    conf = worker.app.conf
    os.environ.pop(TRACES_VARIABLE, None)
    if is_tracing_enabled(conf):
        import_module("celery_locks.tracing").instrument()
        os.environ[TRACES_VARIABLE] = "1"
    if conf.get(METRICS_PORT) is None and not conf.get(EVENTS):
        return None
    return import_module("celery_locks.telemetry.worker").Telemetry(worker, stores)


def is_tracing_enabled(conf: Mapping[str, Any]) -> bool:
    """Return whether spans are made.

    Raises:
        LockConfigError: A setting enables them, and OpenTelemetry's API is not installed.
    """
    setting = conf.get(TRACES)
    if setting is False:
        return False
    is_installed = find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None
    if setting and not is_installed:
        raise LockConfigError(f"{TRACES} needs OpenTelemetry's API: pip install 'celery-locks[otel]'")
    return is_installed


def _in_pool_process(**kwargs: Any) -> None:
    """Start telemetry in a process of the pool that was not forked."""
    if _has_begun.is_set():
        return
    if os.environ.get(TRACES_VARIABLE):
        import_module("celery_locks.tracing").instrument()
    if os.environ.get("CELERY_LOCKS_REPORTS"):
        import_module("celery_locks.telemetry.worker").in_pool_process()


worker_process_init.connect(_in_pool_process, weak=False, dispatch_uid="celery-locks-telemetry")
