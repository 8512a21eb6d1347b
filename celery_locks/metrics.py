"""Prometheus metrics of locks, for processes that are not workers. Workers have the setting ``locks_metrics_port``.

They need ``celery-locks[metrics]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from celery_locks.telemetry import reports
from celery_locks.telemetry.prometheus import Metrics
from celery_locks.telemetry.store import INTERVAL_SECONDS, StoreWatch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from celery_locks import Locks

__all__ = ("collect", "watch")


def collect(registry: CollectorRegistry = REGISTRY) -> Callable[[], None]:
    """Count the outcomes of the locks of this process: acquired, contended, timed out, released and lost.

    The series of locks outside tasks begin now, at 0. The series of a task begin with its first outcome.

    Args:
        registry: The registry of the metrics.

    Returns:
        A function that stops the counting, and removes the metrics.

    Raises:
        ValueError: The registry has these metrics already.
    """
    metrics = Metrics(registry)
    unsubscribe = reports.subscribe(metrics.count)

    def stop() -> None:
        unsubscribe()
        metrics.close()

    return stop


def watch(
    locks: Locks | Callable[[], Locks] | Mapping[str, Locks | Callable[[], Locks]],
    registry: CollectorRegistry = REGISTRY,
    every: float = INTERVAL_SECONDS,
) -> Callable[[], None]:
    """Add the figures of stores to a registry: the leases and waiters of all processes of a site.

    A thread reads each store, and a scrape gets the figures of the previous read, so no scrape waits for a store.
    Unknown figures have no series, so the first scrape may have none.

    Args:
        locks: The locks, or a function that opens them, which is called in that thread. For several stores give a
            mapping of their names to these. The names are the label ``store``.
        registry: The registry of the metrics.
        every: The shortest time between two reads of a store, in seconds.

    Returns:
        A function that removes the metrics.

    Raises:
        ValueError: The registry has these metrics already.
    """
    watched = StoreWatch(locks, every)
    watched.read_soon()
    registry.register(watched)
    return lambda: registry.unregister(watched)
