"""The sweeper: a thread in every worker that dispatches overdue tickets.

Only one of the workers of a broker sweeps at a time. The sweeper runs for each store with parking, also if no task
parks now: tasks may have been parked before a deploy.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from typing import Any

from celery_locks import _logging
from celery_locks._durations import seconds_of
from celery_locks._runtime.process import host_and_pid
from celery_locks.errors import StoreUnavailable
from celery_locks.locks import Locks
from celery_locks.stores.parking import Parking
from celery_locks.stores.types import Claim, Granted
from celery_locks.tasks.app_settings import DEFAULT_SWEEP_INTERVAL, SWEEP_INTERVAL
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.publish import publish_dispatched

logger = _logging.logger(__name__)


class Sweeper:
    """Sweeps the parked tasks of one store of an app."""

    def __init__(self, app: Any, locks: Locks, parking: Parking) -> None:
        self._app = app
        self._locks = locks
        self._parking = parking
        self._interval = seconds_of(SWEEP_INTERVAL, app.conf.get(SWEEP_INTERVAL, DEFAULT_SWEEP_INTERVAL))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celery-locks-sweeper", daemon=True)
        self._broker = broker_id(app)
        # Always the same token, so that each claim extends the lease. No key has a name of this form.
        name = f"{locks.prefix}:sweeper:{{{self._broker}}}"
        self._claim = Claim(name, secrets.token_hex(16), host_and_pid(), max(2 * self._interval, 1.0))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the sweeper of another worker take over. The thread ends at its next check."""
        self._stopped.set()
        with suppress(StoreUnavailable):
            self._locks.store.release(self._claim.name, self._claim.token)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._sweep_safely()

    def _sweep_safely(self) -> None:
        try:
            self._sweep()
        except StoreUnavailable as error:
            logger.warning("%s; parked tasks are dispatched when it is back", error)
            self._stopped.wait(min(1.0, self._interval))
        except Exception:
            logger.exception("the sweeper failed and tries again")
            self._stopped.wait(self._interval)

    def _sweep(self) -> None:
        if not isinstance(self._locks.store.acquire(self._claim), Granted):
            self._stopped.wait(self._interval)
            return
        dispatches = self._parking.sweep(self._locks.prefix, self._broker)
        if dispatches:
            # Not a connection of the app's pool, which belongs to other threads and to the worker's processes.
            with self._app.connection_for_write() as connection:
                publish_dispatched(self._app, self._parking, dispatches, connection)
        elif not self._stopped.is_set():
            self._parking.await_due(self._locks.prefix, self._broker, self._interval)
