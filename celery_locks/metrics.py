"""Prometheus' metrics of locks for processes that are no workers; a worker has them by ``locks_metrics_port``.

They need ``celery-locks[metrics]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from celery_locks.telemetry import reports
from celery_locks.telemetry.prometheus import Metrics
from celery_locks.telemetry.store import EVERY, StoreWatch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from celery_locks.locks import Locks

__all__ = ("collect", "watch")


def collect(registry: CollectorRegistry = REGISTRY) -> Callable[[], None]:
    """Count what happens to the locks of this process.

    Locks outside tasks have all of their series from now on, at 0; a task has all of its own when it is first counted.

    Args:
        registry: Where the metrics are.

    Returns:
        A function that ends it.

    Raises:
        ValueError: This registry has them already.
    """
    metrics = Metrics(registry)
    stop_hearing = reports.hear(metrics.count)

    def stop() -> None:
        stop_hearing()
        metrics.close()

    return stop


def watch(
    locks: Locks | Callable[[], Locks] | Mapping[str, Locks | Callable[[], Locks]],
    registry: CollectorRegistry = REGISTRY,
    every: float = EVERY,
) -> Callable[[], None]:
    """Report in a registry what is held and waited for in stores, by all processes of a site.

    Each store is read by a thread, and each scrape gets what was read before it: no scrape waits for a store. What is
    unknown has no series, so the first scrape may have none.

    Args:
        locks: The locks, or a function that opens them, which is called in that thread. For several stores a mapping
            of their names to these: the label ``store``.
        registry: Where the metrics are.
        every: Seconds between two looks at a store at least.

    Returns:
        A function that ends it.

    Raises:
        ValueError: This registry reports on stores already.
    """
    watched = StoreWatch(locks, every)
    watched.look_soon()
    registry.register(watched)
    return lambda: registry.unregister(watched)
