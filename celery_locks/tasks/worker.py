"""The worker's part: looks at the lock store when the worker starts, and sends on what is stuck while it runs."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks.options import check_settings, locks_for
from celery_locks.tasks.park import Park
from celery_locks.tasks.policies import run_policy
from celery_locks.tasks.revoked import hear_revokes
from celery_locks.tasks.sweeper import Sweeper

logger = logging.getLogger(__name__)


class LocksStep(bootsteps.StartStopStep):
    """Checks the settings: a worker that could take no lease must not start. One whose store is away may."""

    name = "celery-locks"
    _sweeper: Sweeper | None = None

    def start(self, worker: Any) -> None:
        """Called when the worker starts.

        Raises:
            LockConfigError: A setting of ours is wrong or missing.
        """
        app = worker.app
        check_settings(app.conf)
        locks = locks_for(app)
        hear_revokes()
        parking = tickets_of(locks.store)
        parks = [task for task in app.tasks.values() if _parks(task)]  # checks the options of all
        if parks and parking is not None:
            self._sweeper = Sweeper(app, locks, parking)
            self._sweeper.start()
        try:
            locks.store.ping()
        except StoreUnavailable as error:
            logger.warning("%s; locked tasks are put off until it is back", error)
        else:
            logger.info("locks in %s, prefix %r", locks.url, locks.prefix)

    def stop(self, worker: Any) -> None:
        """Called when the worker stops."""
        if self._sweeper is not None:
            self._sweeper.stop()


def _parks(task: Any) -> bool:
    options = getattr(task, "lock_options", None)
    return options is not None and task.locks_runs() and isinstance(run_policy(options), Park)
