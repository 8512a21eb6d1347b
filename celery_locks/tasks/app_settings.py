"""The names of the app's settings, and the task options among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_locks.settings import OPTION_NAMES

#: The prefix of all settings.
APP_PREFIX = "locks_"
#: The longest time between two sweeps, in seconds, and its default.
SWEEP_INTERVAL, DEFAULT_SWEEP_INTERVAL = "locks_sweep_interval", 5.0
#: How long a key is kept for a dispatched task before the task is dispatched again, in seconds, and its default.
CALL_TTL, DEFAULT_CALL_TTL = "locks_call_ttl", 60.0
#: A name for the broker, for services that reach it under several addresses.
BROKER = "locks_broker"
#: The folder in which the workers of a machine record their claims.
FOLDER = "locks_folder"
#: Whether the worker's main process parks messages of held keys before they take a slot of the pool.
PARK_BEFORE_POOL = "locks_park_before_pool"
#: Whether the worker that releases a key runs the next parked task itself, where it can.
DIRECT_DISPATCH = "locks_direct_dispatch"
#: The port and the address on which a worker serves its metrics: by default no port, and all addresses.
METRICS_PORT, METRICS_HOST = "locks_metrics_port", "locks_metrics_host"
#: Whether a worker also serves the metrics of its stores.
METRICS_STORE = "locks_metrics_store"
#: Whether Celery events of locks are sent.
EVENTS = "locks_events"
#: Whether spans are made; by default if OpenTelemetry's API is installed.
TRACES = "locks_traces"

#: Options that can't be settings of an app.
_TASK_ONLY = {"key", "limit", "permits"}
_APP_OPTIONS = tuple(name for name in OPTION_NAMES if name not in _TASK_ONLY)
#: All settings of this library.
APP_SETTINGS = (
    *(APP_PREFIX + name for name in _APP_OPTIONS),
    "locks_url",
    "locks_stores",
    "locks_prefix",
    SWEEP_INTERVAL,
    CALL_TTL,
    BROKER,
    FOLDER,
    PARK_BEFORE_POOL,
    DIRECT_DISPATCH,
    METRICS_PORT,
    METRICS_HOST,
    METRICS_STORE,
    EVENTS,
    TRACES,
)


def options_of_app(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that an app's settings set for all its tasks, by their names."""
    return {name: conf[APP_PREFIX + name] for name in _APP_OPTIONS if APP_PREFIX + name in conf}
