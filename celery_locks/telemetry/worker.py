"""The metrics and events of a worker whose settings ask for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from celery_locks import LockConfigError, Locks
from celery_locks._logging import logger
from celery_locks._runtime import process
from celery_locks.tasks.app_settings import EVENTS, METRICS_HOST, METRICS_PORT, METRICS_STORE
from celery_locks.tasks.worker.checks import locked_names
from celery_locks.telemetry import reports
from celery_locks.telemetry.events import EventSender
from celery_locks.telemetry.pipe import VARIABLE, Reader, Writer
from celery_locks.telemetry.reports import Report

log = logger(__name__)


class Telemetry:
    """The telemetry of a worker. It is made before the processes of the pool, which inherit it.

    Args:
        worker: Celery's worker.
        stores: The locks of the worker's app, by the store's name.

    Raises:
        LockConfigError: A setting needs prometheus_client, which is not installed.
    """

    def __init__(self, worker: Any, stores: Mapping[str, Locks]) -> None:
        conf = worker.app.conf
        self._forks = process.forks
        self._metrics = MetricsServer(worker.app, stores) if conf.get(METRICS_PORT) is not None else None
        self._events = EventSender(worker.app, worker.hostname, self._drop) if conf.get(EVENTS) else None
        self._reader = Reader(self._deliver, self._drop) if has_processes(worker) else None
        self._writer = Writer(str(self._reader.path)) if self._reader is not None else None
        self._unsubscribe = reports.subscribe(self._receive)

    def start(self) -> None:
        """Start to collect. The worker calls it when it starts."""
        if self._reader is not None:
            self._reader.start()
        if self._events is not None:
            self._events.start()
        if self._metrics is not None:
            self._metrics.start()

    def stop(self) -> None:
        """Deliver the last reports, and stop. The worker calls it when it stops."""
        self._unsubscribe()
        if self._forks != process.forks:
            return
        if self._reader is not None:
            self._reader.stop()
            self._reader.close()
        if self._events is not None:
            self._events.stop()
        if self._metrics is not None:
            self._metrics.stop()

    def abandon(self) -> None:
        """Stop without delivering the last reports. The worker calls it when it stops immediately."""
        self._unsubscribe()
        if self._reader is not None:
            self._reader.close()

    def _receive(self, report: Report) -> None:
        """Take a report of the worker, or of a process of its pool, which has inherited this subscription."""
        if self._writer is not None and self._forks != process.forks:
            self._writer.write(report)
        else:
            self._deliver(report)

    def _deliver(self, report: Report) -> None:
        if self._metrics is not None:
            self._metrics.metrics.count(report)
        if self._events is not None:
            self._events.put(report)

    def _drop(self, count: int) -> None:
        if self._metrics is not None:
            self._metrics.metrics.dropped.inc(count)


class MetricsServer:
    """Serves the metrics of prometheus_client's default registry.

    Args:
        app: The worker's app.
        stores: The locks of the app, by the store's name.

    Raises:
        LockConfigError: prometheus_client is not installed.
    """

    def __init__(self, app: Any, stores: Mapping[str, Locks]) -> None:
        conf, tasks = app.conf, partial(locked_names, app)
        try:
            import prometheus_client

            from celery_locks.telemetry.prometheus import Held, Metrics
            from celery_locks.telemetry.store import StoreWatch
        except ImportError as error:
            raise LockConfigError(
                f"{METRICS_PORT} needs prometheus_client: pip install 'celery-locks[metrics]'"
            ) from error
        self._port, self._host = conf[METRICS_PORT], conf.get(METRICS_HOST) or "0.0.0.0"
        self._library = prometheus_client
        self._registry = prometheus_client.REGISTRY
        self.metrics = Metrics(self._registry, tasks)
        self._collectors: list[Any] = [Held(_held_here, tasks)]
        if conf.get(METRICS_STORE):
            watched = StoreWatch(stores, tasks=tasks)
            self._collectors.append(watched)
        self._server: Any = None
        for collector in self._collectors:
            self._registry.register(collector)

    def start(self) -> None:
        """Open the port. A worker whose port is taken works without metrics."""
        try:
            self._server, _ = self._library.start_http_server(self._port, self._host, self._registry)
        except OSError as error:
            log.warning("no metrics of locks: %s %s can't be opened (%s)", METRICS_PORT, self._port, error)
            return
        process.after_fork_in_child(self._server.socket.close)  # a child would keep the port after the worker's end
        log.info("metrics of locks on port %d", self._server.server_port)

    def stop(self) -> None:
        """Close the port, and unregister the metrics."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        for collector in self._collectors:
            self._registry.unregister(collector)
        self.metrics.close()


def has_processes(worker: Any) -> bool:
    """Return whether the tasks run in processes other than the worker's own."""
    return str(getattr(worker.pool_cls, "__module__", "")).endswith(".prefork")


def _held_here() -> list[str] | None:
    from celery_locks.tasks.worker.inspection import held_here

    held = held_here()
    return None if held is None else [lease["task"] for lease in held]


def in_pool_process() -> None:
    """Send reports from a process of the pool that was not forked, and so has inherited nothing."""
    path = os.environ.get(VARIABLE)
    if path:
        reports.subscribe(Writer(path).write)
