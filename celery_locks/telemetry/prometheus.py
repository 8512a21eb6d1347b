"""Prometheus metrics of the outcomes of locks, labelled by task, and not by key: the number of keys is unbounded."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from celery_locks.errors import LOSS_REASONS
from celery_locks.telemetry.reports import Report

#: The upper bounds of the histograms in seconds: from a free lock to an hour in line.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


class Metrics:
    """Counts reports.

    All series of a task begin at 0 when the task becomes known, since ``increase()`` misses a series that begins at 1.

    Args:
        registry: The registry of the metrics.
        tasks: Returns the names of the known tasks. It is called at each scrape.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, tasks: Callable[[], Iterable[str]] = tuple) -> None:
        self._registry = registry
        self._tasks = tasks
        self._known: set[str] = set()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"celery_locks_{name}", text, labels, registry=None)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"celery_locks_{name}", text, ["task"], registry=None, buckets=BUCKETS)

        self._counters = {
            "acquired": counter("acquired", "Leases that were acquired.", "task"),
            "contended": counter("contended", "Times that a lease was not available immediately.", "task"),
            "timed_out": counter("timed_out", "Times that the waiting for a lease ended without one.", "task"),
            "released": counter("released", "Leases that their holders released.", "task"),
        }
        self._lost = counter("lost", "Leases that ended before they were released.", "task", "reason")
        self._wait = histogram("wait_seconds", "For how long leases were waited for.")
        self._hold = histogram("hold_seconds", "For how long leases were held.")
        self.dropped = counter(
            "reports_dropped", "Outcomes that were not counted, or not sent as events, because there were too many."
        )
        self._by_task = (*self._counters.values(), self._wait, self._hold)
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Return the names without values, by which a registry finds duplicates."""
        for metric in (*self._by_task, self._lost, self.dropped):
            yield from metric.describe()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics. prometheus_client calls it at each scrape."""
        self._add("", *self._tasks())
        for metric in (*self._by_task, self._lost, self.dropped):
            yield from metric.collect()

    def count(self, report: Report) -> None:
        """Count one report."""
        if report.part:  # a second lease of the same run; the lease of the key itself is counted
            return
        task = report.task
        self._add(task)
        if report.kind == "lost":
            self._lost.labels(task, report.reason).inc()
        elif report.kind in self._counters:
            self._counters[report.kind].labels(task).inc()
        if report.seconds is not None:
            (self._wait if report.kind == "acquired" else self._hold).labels(task).observe(report.seconds)

    def close(self) -> None:
        """Take the metrics out of the registry."""
        self._registry.unregister(self)

    def _add(self, *tasks: str) -> None:
        """Add the series of tasks that have none yet. The empty name stands for locks outside tasks."""
        for task in tasks:
            if task in self._known:
                continue
            self._known.add(task)
            for metric in self._by_task:
                metric.labels(task)
            for reason in LOSS_REASONS:
                self._lost.labels(task, reason)


class Held:
    """The leases that the processes of a worker hold, by task. They are read at each scrape.

    Args:
        read: Returns the task's name of each lease; ``None`` if the leases are unknown.
        tasks: Returns the names of the known tasks.
    """

    def __init__(self, read: Callable[[], Iterable[str] | None], tasks: Callable[[], Iterable[str]] = tuple) -> None:
        self._read = read
        self._tasks = tasks
        self._seen: set[str] = set()

    def describe(self) -> list[Metric]:
        """Return the name without values, so that nothing is read at the registration."""
        return [_held({})]

    def collect(self) -> Iterable[Metric]:
        """Return the gauge. prometheus_client calls it at each scrape."""
        held = self._read()
        if held is None:
            return [_held({})]
        counts = Counts(held)
        self._seen.update(counts, self._tasks())
        return [_held({task: counts[task] for task in sorted(self._seen)})]


def _held(by_task: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily("celery_locks_held", "Leases that the tasks of this worker hold.", labels=["task"])
    for task, value in by_task.items():
        family.add_metric([task], value)
    return family
