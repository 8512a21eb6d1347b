"""The step of a worker that checks its settings and stores, and starts the sweepers, the reaper and telemetry."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from celery import bootsteps

from celery_locks import _logging
from celery_locks._validation import DEFAULT_STORE
from celery_locks.errors import StoreUnavailable
from celery_locks.locks import Locks, app_store, named_stores
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks.app_settings import FOLDER
from celery_locks.tasks.messages.direct import make_offers
from celery_locks.tasks.options import all_locks
from celery_locks.tasks.settings_check import check_settings
from celery_locks.tasks.spec import TaskWithLock
from celery_locks.tasks.worker import checks, journal, telemetry
from celery_locks.tasks.worker.liveness import FOLDER_VARIABLE
from celery_locks.tasks.worker.reaper import Reaper
from celery_locks.tasks.worker.revoke import withdraw_at_revokes
from celery_locks.tasks.worker.sweeper import Sweeper

logger = _logging.logger(__name__)


class LocksStep(bootsteps.StartStopStep):
    """Runs this library's components of a worker.

    A worker with wrong settings does not start. A worker whose store can't be reached starts.
    """

    name = "celery-locks"
    _sweepers: Sequence[Sweeper] = ()
    _reaper: Reaper | None = None
    _telemetry: Any = None

    def create(self, worker: Any) -> None:
        """Check the settings, and make the worker's folder before the pool's processes are made.

        Raises:
            LockConfigError: A setting is wrong or missing.
        """
        # Registers the command ``inspect locks``. It imports much that only workers need.
        import_module("celery_locks.tasks.worker.inspection")
        app = worker.app
        check_settings(app.conf)
        stores = all_locks(app)
        checks.check_start(worker, stores)
        locks = stores[DEFAULT_STORE]
        self._telemetry = telemetry.begin(worker, stores)
        if not any(each.store.shared for each in stores.values()):
            return
        if any(tickets_of(each.store) is not None for each in stores.values()):
            make_offers(app)
        try:
            folder = journal.begin(
                _site(app.conf, locks.prefix), app.conf.get(FOLDER) or os.environ.get(FOLDER_VARIABLE)
            )
        except OSError as error:
            logger.warning("%s: the leases of a process that dies end with their ttl", error)
        else:
            self._reaper = Reaper(app, {name: each.store for name, each in stores.items()}, folder)
            self._reaper.end_at_exit()

    def start(self, worker: Any) -> None:
        """Start the components, and check the stores.

        Raises:
            LockConfigError: A setting of a task is wrong.
        """
        app = worker.app
        stores = all_locks(app)
        withdraw_at_revokes()
        tasks = checks.locked_tasks(app)
        parked = [(locks, parking) for locks in stores.values() if (parking := tickets_of(locks.store)) is not None]
        self._sweepers = [Sweeper(app, locks, parking) for locks, parking in parked]
        for sweeper in self._sweepers:
            sweeper.start()
        if self._reaper is not None:
            self._reaper.start()
        if self._telemetry is not None:
            self._telemetry.start()
        for name, locks in stores.items():
            _check_store(app, locks, [task for task in tasks if task.lock_options.store == name])

    def stop(self, worker: Any) -> None:
        """Stop the components."""
        for sweeper in self._sweepers:
            sweeper.stop()
        if self._reaper is not None:
            self._reaper.close()
        if self._telemetry is not None:
            self._telemetry.stop()

    def terminate(self, worker: Any) -> None:
        """Stop the components without waiting for a store."""
        if self._reaper is not None:
            self._reaper.close()
        if self._telemetry is not None:
            self._telemetry.abandon()


def _check_store(app: Any, locks: Locks, tasks: list[TaskWithLock]) -> None:
    """Log the problems of a store, as far as they concern these tasks."""
    try:
        locks.store.ping()
        for warning in checks.warnings(app, locks.store, tasks):
            logger.warning("%s", warning)
    except StoreUnavailable as error:
        logger.warning("%s; locked tasks are deferred until it is back", error)
    else:
        logger.info("locks in %s, prefix %r", locks.url, locks.prefix)


def _site(conf: Any, prefix: str) -> str | None:
    """Return the stores and the prefix of an app; ``None`` if a setting is a `Store` and not an address."""
    others = {name: store for name, store in named_stores(conf).items() if name != DEFAULT_STORE}
    stores = [app_store(conf), *(f"{name}={store}" for name, store in sorted(others.items()) if isinstance(store, str))]
    comparable = isinstance(stores[0], str) and len(stores) == len(others) + 1
    return f"{' '.join(map(str, stores))} {prefix}" if comparable else None
