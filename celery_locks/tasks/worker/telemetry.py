"""Metrics, events and traces, as the worker sees them: their settings, and what is started where they ask for it.

What they need is loaded only then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from celery.signals import worker_process_init

from celery_locks.errors import LockConfigError
from celery_locks.locks import Locks
from celery_locks.tasks.app_settings import EVENTS, METRICS_PORT, TRACES

#: Tells a process of the pool that was not forked to make spans.
TRACES_VARIABLE = "CELERY_LOCKS_TRACES"
#: The number of the process that began what this one has, or has inherited by a fork.
_begun_by = 0


def begin(worker: Any, stores: Mapping[str, Locks]) -> Any:
    """Start what the app's settings ask for, in a worker whose pool is not yet made.

    Raises:
        LockConfigError: A package that is needed is not installed.
    """
    global _begun_by
    _begun_by = os.getpid()
    conf = worker.app.conf
    os.environ.pop(TRACES_VARIABLE, None)
    if traces(conf):
        import_module("celery_locks.tracing").instrument()
        os.environ[TRACES_VARIABLE] = "1"
    if conf.get(METRICS_PORT) is None and not conf.get(EVENTS):
        return None
    return import_module("celery_locks.telemetry.worker").Telemetry(worker, stores)


def traces(conf: Mapping[str, Any]) -> bool:
    """Whether spans are to be made.

    Raises:
        LockConfigError: They are asked for, and OpenTelemetry's API is not installed.
    """
    asked = conf.get(TRACES)
    if asked is False:
        return False
    there = find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None
    if asked and not there:
        raise LockConfigError(f"{TRACES} needs OpenTelemetry's API: pip install 'celery-locks[otel]'")
    return there


def _in_pool_process(**kwargs: Any) -> None:
    """What a fork would have inherited."""
    if _begun_by:
        return
    if os.environ.get(TRACES_VARIABLE):
        import_module("celery_locks.tracing").instrument()
    if os.environ.get("CELERY_LOCKS_REPORTS"):
        import_module("celery_locks.telemetry.worker").in_pool_process()


worker_process_init.connect(_in_pool_process, weak=False, dispatch_uid="celery-locks-telemetry")
