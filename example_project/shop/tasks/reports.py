"""Tasks that beat sends. Two beats may run at the same time: the locks prevent that a task is done twice."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Task

from celery_locks import Contention, ContentionPolicy, LockedTask, single_instance
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.lost_leases import RETRY_AFTER_LOSS

logger = logging.getLogger(__name__)


class SkipWithWarning(ContentionPolicy):
    """A policy of the shop's own, which skips a task and logs it."""

    def contended(self, contention: Contention) -> Any:
        logger.warning("%s is skipped: %s still runs", contention.task.name, ", ".join(contention.holder_names))
        return contention.skip()


# A policy of the shop's own, and a max_hold. A count that is due while the last still runs is skipped with a warning. A
# count that hangs loses its lease after a minute, so that the next one may run.
@app.task(bind=True)
@single_instance(key="sales", on_contention=SkipWithWarning(), max_hold=60)
def count_sales(self: Task, seconds: float = 0.5) -> None:
    """Count the sales so far."""
    with recorded(self):
        time.sleep(seconds)


# "until_expired", "skip": at most once in 50 s, for any number of beats and other callers.
@app.task(base=LockedTask, bind=True, lock_scope="until_expired", lock_ttl=50, lock_on_contention="skip")
def look_for_forgotten_carts(self: LockedTask, seconds: float = 0.2) -> None:
    """Search for carts that were not paid."""
    with recorded(self):
        time.sleep(seconds)


# "skip": the nightly job must never overlap, and needs no second run while the first still runs.
@app.task(base=LockedTask, bind=True, lock_key="day", lock_on_contention="skip", **RETRY_AFTER_LOSS)
def close_day(self: LockedTask, seconds: float = 5.0) -> None:
    """Close the books of a day."""
    with recorded(self):
        time.sleep(seconds)
