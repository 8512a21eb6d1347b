"""Prometheus metrics of what happens to locks: by task, and never by key, since there is no end of those."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from celery_locks.errors import LOSS_REASONS
from celery_locks.telemetry.reports import Report

#: Upper bounds in seconds: from a lock that is free to a line of an hour.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


class Metrics:
    """Counts reports.

    All series of a task begin at 0 when the task becomes known. ``increase()`` would miss a series that begins at 1.

    Args:
        registry: Where the metrics are.
        tasks: Gives the names of the tasks that are known; called at each scrape.
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
            "reports_dropped", "Outcomes that were not counted, or not sent as events: there were too many."
        )
        self._by_task = (*self._counters.values(), self._wait, self._hold)
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Return the names alone, so that no registry gets them twice."""
        for metric in (*self._by_task, self._lost, self.dropped):
            yield from metric.describe()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics (prometheus_client calls it)."""
        self._add("", *self._tasks())
        for metric in (*self._by_task, self._lost, self.dropped):
            yield from metric.collect()

    def count(self, report: Report) -> None:
        """Count one report."""
        if report.part:  # a second lease for one run, by a scope: the key itself is counted
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
        """Give each of these tasks its series, if it has none yet. The empty name is for locks outside tasks."""
        for task in tasks:
            if task in self._known:
                continue
            self._known.add(task)
            for metric in self._by_task:
                metric.labels(task)
            for reason in LOSS_REASONS:
                self._lost.labels(task, reason)


class Held:
    """The leases that a worker's processes hold at this moment, by task: read at each scrape.

    Args:
        read: Gives the task's name of each lease; ``None`` when it is not known what is held.
        tasks: Gives the names of the tasks that are known.
    """

    def __init__(self, read: Callable[[], Iterable[str] | None], tasks: Callable[[], Iterable[str]] = tuple) -> None:
        self._read = read
        self._tasks = tasks
        self._seen: set[str] = set()

    def describe(self) -> list[Metric]:
        """Return the name alone: nothing is read when it is registered."""
        return [_held({})]

    def collect(self) -> Iterable[Metric]:
        """Return the gauge (prometheus_client calls it)."""
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
