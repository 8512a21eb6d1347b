"""Celery events of locks: ``lock-acquired``, ``lock-contended``, ``lock-lost``, ``lock-released``.

Sent by a thread of its own, on a connection of its own: a broker that is slow or away holds up no lock. What doesn't
fit into the queue meanwhile is dropped, and counted.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from celery_locks import _logging
from celery_locks._validation import DEFAULT_STORE
from celery_locks.telemetry.reports import Report

logger = _logging.logger(__name__)

KINDS = ("acquired", "contended", "lost", "released")
#: How many events wait for the broker at most.
ROOM = 10_000
#: Seconds until a broker that was away is tried again.
TRY_AGAIN = 1.0
#: Seconds for what is in the queue when the worker stops.
LAST = 2.0


class EventSender:
    """Sends events.

    Args:
        app: The app whose broker gets them.
        hostname: The worker's name.
        dropped: Called with how many were dropped.
    """

    def __init__(self, app: Any, hostname: str, dropped: Callable[[int], object]) -> None:
        self._app = app
        self._hostname = hostname
        self._dropped = dropped
        self._queue: queue.Queue[Report | None] = queue.Queue(ROOM)
        self._stop_at = float("inf")
        self._warned = False
        #: The event that could not be sent, and how often that failed.
        self._again: Report | None = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="celery-locks-events", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def put(self, report: Report) -> None:
        """Has an event sent soon, or drops it; never waits."""
        if report.kind in KINDS:
            try:
                self._queue.put_nowait(report)
            except queue.Full:
                self._dropped(1)

    def stop(self) -> None:
        """Sends what is left, as far as that takes no longer than `LAST` seconds."""
        self._stop_at = time.monotonic() + LAST
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        if self._thread.is_alive():
            self._thread.join(2 * LAST)

    def _run(self) -> None:
        while not self._sent_all() and time.monotonic() < self._stop_at:
            time.sleep(TRY_AGAIN)

    def _sent_all(self) -> bool:
        """Sends events until it is time to stop; ``False`` when the broker is away."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
                with self._app.events.Dispatcher(connection, hostname=self._hostname) as dispatcher:
                    self._send_by(dispatcher)
            return True
        except Exception as error:  # whatever the broker's client raises
            if not self._warned:
                logger.warning("events of locks can't be sent: %s: %s; trying again", type(error).__name__, error)
            self._warned = True
            return False

    def _send_by(self, dispatcher: Any) -> None:
        while True:
            report, self._again = self._again or self._queue.get(), None
            if report is None or time.monotonic() >= self._stop_at:
                return
            self._send(dispatcher, report)

    def _send(self, dispatcher: Any, report: Report) -> None:
        try:
            dispatcher.send(f"lock-{report.kind}", retry=False, **fields_of(report))
        except Exception:
            if self._failures:  # twice, on two connections: it is the event's fault, or it is too old by now
                self._failures = 0
                self._dropped(1)
            else:
                self._failures, self._again = 1, report
            raise
        self._failures, self._warned = 0, False


def fields_of(report: Report) -> dict[str, Any]:
    """What an event tells; what is not known is left out."""
    named = {
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
    return {name: value for name, value in named.items() if value is not None}
