"""Prometheus' metrics of what becomes of locks: by task, and never by key, of which there is no end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from celery_locks.telemetry.reports import Report

#: Upper bounds in seconds: from a lock that is free to a line of an hour.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


class Metrics:
    """Counts reports.

    Args:
        registry: Where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"celery_locks_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"celery_locks_{name}", text, ["task"], registry=registry, buckets=BUCKETS)

        self._counters = {
            "acquired": counter("acquired", "Leases that were had.", "task"),
            "contended": counter("contended", "Times that a lease was not to be had at once.", "task"),
            "timed_out": counter("timed_out", "Times that the waiting for a lease was over.", "task"),
            "released": counter("released", "Leases that their holders gave back.", "task"),
        }
        self._lost = counter("lost", "Leases that ended before they were given back.", "task", "reason")
        self._wait = histogram("wait_seconds", "For how long leases were waited for.")
        self._hold = histogram("hold_seconds", "For how long leases were held.")
        self.dropped = counter("reports_dropped", "Outcomes that are not counted here: there were too many at once.")

    def count(self, report: Report) -> None:
        """Counts one."""
        task = report.task
        if report.kind == "lost":
            self._lost.labels(task, report.reason).inc()
        elif report.kind in self._counters:
            self._counters[report.kind].labels(task).inc()
        if report.seconds is not None:
            (self._wait if report.kind == "acquired" else self._hold).labels(task).observe(report.seconds)

    def close(self) -> None:
        """Takes the metrics out of the registry."""
        for metric in (*self._counters.values(), self._lost, self._wait, self._hold, self.dropped):
            self._registry.unregister(metric)


class Held:
    """The leases that a worker's processes hold at this moment, by task: read when it is asked for.

    Args:
        read: Gives the task's name of each lease.
    """

    def __init__(self, read: Callable[[], Iterable[str]]) -> None:
        self._read = read
        self._seen: set[str] = set()

    def describe(self) -> list[Metric]:
        """The name alone: nothing is read when it is registered."""
        return [_held({})]

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client."""
        counts: dict[str, int] = dict.fromkeys(self._seen, 0)
        for task in self._read():
            counts[task] = counts.get(task, 0) + 1
        self._seen.update(counts)
        yield _held(counts)


def _held(by_task: dict[str, int]) -> Metric:
    return gauge("held", "Leases that the tasks of this worker hold.", by_task)


def gauge(name: str, text: str, by_task: dict[str, int]) -> Metric:
    """A gauge with a value for each task."""
    family = GaugeMetricFamily(f"celery_locks_{name}", text, labels=["task"])
    for task, value in by_task.items():
        family.add_metric([task], value)
    return family


def plain_gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(f"celery_locks_{name}", text, value=value)
