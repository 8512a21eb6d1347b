"""The worker's part: looks at the lock store when the worker starts; while it runs, it sends on what is stuck and frees
what the dead have left."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from celery import bootsteps

from celery_locks import log
from celery_locks.errors import StoreUnavailable
from celery_locks.locks import app_store
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks import checks, records, telemetry
from celery_locks.tasks.lives import FOLDER, FOLDER_VARIABLE
from celery_locks.tasks.options import check_settings, locks_for
from celery_locks.tasks.reaper import Reaper
from celery_locks.tasks.revoked import hear_revokes
from celery_locks.tasks.sweeper import Sweeper

logger = log.logger(__name__)


class LocksStep(bootsteps.StartStopStep):
    """Checks the settings: a worker that could take no lease must not start. One whose store is away may."""

    name = "celery-locks"
    _sweeper: Sweeper | None = None
    _reaper: Reaper | None = None
    _telemetry: Any = None

    def create(self, worker: Any) -> None:
        """Called before any step starts, so before the pool's processes are made: they must know of the life.

        Raises:
            LockConfigError: A setting of ours is wrong or missing.
        """
        # Makes the command known, which the worker's parent answers. Much else comes with it, which only workers need.
        import_module("celery_locks.tasks.inspection")
        app = worker.app
        check_settings(app.conf)
        locks = locks_for(app)
        checks.check_start(worker, locks)
        self._telemetry = telemetry.begin(worker, locks)
        if not locks.store.shared:
            return
        try:
            life = records.begin(_site(app.conf, locks.prefix), app.conf.get(FOLDER) or os.environ.get(FOLDER_VARIABLE))
        except OSError as error:
            logger.warning("%s; what a process holds that dies is free when its ttl is over", error)
        else:
            self._reaper = Reaper(app, locks, life)
            self._reaper.end_at_exit()

    def start(self, worker: Any) -> None:
        """Called when the worker starts.

        Raises:
            LockConfigError: A setting of a task is wrong.
        """
        app = worker.app
        locks = locks_for(app)
        hear_revokes()
        parking = tickets_of(locks.store)
        tasks = checks.locked_tasks(app)
        if parking is not None:
            self._sweeper = Sweeper(app, locks, parking)
            self._sweeper.start()
        if self._reaper is not None:
            self._reaper.start()
        if self._telemetry is not None:
            self._telemetry.start()
        try:
            locks.store.ping()
            for warning in checks.warnings(app, locks.store, tasks):
                logger.warning("%s", warning)
        except StoreUnavailable as error:
            logger.warning("%s; locked tasks are put off until it is back", error)
        else:
            logger.info("locks in %s, prefix %r", locks.url, locks.prefix)

    def stop(self, worker: Any) -> None:
        """Called when the worker stops."""
        if self._sweeper is not None:
            self._sweeper.stop()
        if self._reaper is not None:
            self._reaper.close()
        if self._telemetry is not None:
            self._telemetry.stop()

    def terminate(self, worker: Any) -> None:
        """Called when the worker stops at once: it does not wait for the store."""
        if self._reaper is not None:
            self._reaper.close()
        if self._telemetry is not None:
            self._telemetry.abandon()


def _site(conf: Any, prefix: str) -> str | None:
    """What leases are of; ``None`` where the setting is a `Store`, which others can't be compared with."""
    store = app_store(conf)
    return f"{store} {prefix}" if isinstance(store, str) else None
