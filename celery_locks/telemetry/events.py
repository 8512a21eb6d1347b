"""Celery events of locks: ``lock-acquired``, ``lock-contended``, ``lock-lost``, ``lock-released``.

A thread with a connection of its own sends them, so a slow broker delays no lock. Events that don't fit into the queue
are dropped, and counted.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from celery_locks._logging import logger
from celery_locks._validation import DEFAULT_STORE
from celery_locks.telemetry.reports import Report

log = logger(__name__)

KINDS = ("acquired", "contended", "lost", "released")
#: How many events wait for the broker at most.
QUEUE_SIZE = 10_000
#: Seconds until a broker that was unreachable is tried again.
RETRY_SECONDS = 1.0
#: How long a worker that stops sends the events in the queue.
FLUSH_SECONDS = 2.0


class EventSender:
    """Sends reports as Celery events.

    Args:
        app: The app whose broker gets the events.
        hostname: The worker's name.
        dropped: Called with the number of dropped events.
    """

    def __init__(self, app: Any, hostname: str, dropped: Callable[[int], object]) -> None:
        self._app = app
        self._hostname = hostname
        self._dropped = dropped
        self._queue: queue.Queue[Report | None] = queue.Queue(QUEUE_SIZE)
        self._stop_at = float("inf")
        self._warned = False
        #: The report that could not be sent, and how often that failed.
        self._unsent: Report | None = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="celery-locks-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, report: Report) -> None:
        """Queue an event, or drop it if the queue is full."""
        if report.kind in KINDS:
            try:
                self._queue.put_nowait(report)
            except queue.Full:
                self._dropped(1)

    def stop(self) -> None:
        """Send the events in the queue, for `FLUSH_SECONDS` at most."""
        self._stop_at = time.monotonic() + FLUSH_SECONDS
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        if self._thread.is_alive():
            self._thread.join(2 * FLUSH_SECONDS)

    def _run(self) -> None:
        while not self._send_all() and time.monotonic() < self._stop_at:
            time.sleep(RETRY_SECONDS)

    def _send_all(self) -> bool:
        """Send events until the worker stops. Return ``False`` if the broker can't be reached."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
                with self._app.events.Dispatcher(connection, hostname=self._hostname) as dispatcher:
                    self._send_with(dispatcher)
            return True
        except Exception as error:  # whatever the broker's client raises
            if not self._warned:
                log.warning("events of locks can't be sent: %s: %s; trying again", type(error).__name__, error)
            self._warned = True
            return False

    def _send_with(self, dispatcher: Any) -> None:
        while True:
            report, self._unsent = self._unsent or self._queue.get(), None
            if report is None or time.monotonic() >= self._stop_at:
                return
            self._send(dispatcher, report)

    def _send(self, dispatcher: Any, report: Report) -> None:
        try:
            dispatcher.send(f"lock-{report.kind}", retry=False, **fields_of(report))
        except Exception:
            if self._failures:  # it failed on two connections: the event is at fault, or too old by now
                self._failures = 0
                self._dropped(1)
            else:
                self._failures, self._unsent = 1, report
            raise
        self._failures, self._warned = 0, False


def fields_of(report: Report) -> dict[str, Any]:
    """Return the fields of an event. Unknown values are left out."""
    fields = {
        "key": report.key,
        "part": report.part or None,
        "store": None if report.store == DEFAULT_STORE else report.store,
        "task": report.task or None,
        "task_id": report.task_id,
        "owner": report.owner,
        "fencing_token": report.fencing_token,
        "reason": report.reason,
        "seconds": report.seconds,
        "timestamp": report.at,
    }
    return {name: value for name, value in fields.items() if value is not None}
