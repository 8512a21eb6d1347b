"""The worker's part: looks at the lock store when the worker starts."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

from celery_locks.errors import StoreUnavailable

logger = logging.getLogger(__name__)


class LocksStep(bootsteps.StartStopStep):
    """Checks the settings: a worker that could take no lease must not start. One whose store is away may."""

    name = "celery-locks"

    def start(self, worker: Any) -> None:
        """Called when the worker starts.

        Raises:
            LockConfigError: A setting of ours is wrong or missing.
        """
        from celery_locks.tasks.options import check_settings, locks_for

        check_settings(worker.app.conf)
        locks = locks_for(worker.app)
        try:
            locks.store.ping()
        except StoreUnavailable as error:
            logger.warning("%s; locked tasks are put off until it is back", error)
        else:
            logger.info("locks in %s, prefix %r", locks.url, locks.prefix)
