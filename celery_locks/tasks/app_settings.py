"""The names of the app's settings that are no options of tasks, and the options among its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_locks.settings import OPTION_NAMES

#: What the names of all settings begin with.
APP_PREFIX = "locks_"
#: The longest time between two sweeps, in seconds, and its default.
SWEEP_INTERVAL, DEFAULT_SWEEP_INTERVAL = "locks_sweep_interval", 5.0
#: How long a key is kept for a dispatched task before the task is dispatched once more, in seconds, and its default.
CALL_TTL, DEFAULT_CALL_TTL = "locks_call_ttl", 60.0
#: A name for the broker, where its services reach it under several addresses.
BROKER = "locks_broker"
#: The folder in which a machine's workers note what they hold.
FOLDER = "locks_folder"
#: Whether the worker's parent parks messages of held keys before they take a slot of the pool.
PARK_BEFORE_POOL = "locks_park_before_pool"
#: The port and the address on which a worker serves its metrics; no port by default, and all addresses.
METRICS_PORT, METRICS_HOST = "locks_metrics_port", "locks_metrics_host"
#: Whether a worker serves the metrics of its stores, too.
METRICS_STORE = "locks_metrics_store"
#: Whether Celery events of locks are sent.
EVENTS = "locks_events"
#: Whether spans are made; by default where OpenTelemetry's API is installed.
TRACES = "locks_traces"

#: Options that mean something only for one task.
_TASK_ONLY = {"key", "limit", "permits"}
_APP_OPTIONS = tuple(name for name in OPTION_NAMES if name not in _TASK_ONLY)
#: All settings of ours.
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
    METRICS_PORT,
    METRICS_HOST,
    METRICS_STORE,
    EVENTS,
    TRACES,
)


def options_of_app(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that an app's settings set for all of its tasks, by their names."""
    return {name: conf[APP_PREFIX + name] for name in _APP_OPTIONS if APP_PREFIX + name in conf}
