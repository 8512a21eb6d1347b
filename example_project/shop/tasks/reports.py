"""What beat sends. Two beats at once do no harm: the locks see to it that nothing is done twice."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Task

from celery_locks import Contention, ContentionPolicy, LockedTask, single_instance
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.again import AGAIN

logger = logging.getLogger(__name__)


class SkipAloud(ContentionPolicy):
    """A policy of the shop's own: what is left out is worth a line in the log."""

    def contended(self, contention: Contention) -> Any:
        logger.warning("%s is left out: still at work is %s", contention.task.name, ", ".join(contention.holder_names))
        return contention.skip()


# A policy of its own, with an end: a count that takes longer than the time between two is left out once, aloud; one
# that hangs loses its lease after a minute, so that the next may begin.
@app.task(bind=True)
@single_instance(key="sales", on_contention=SkipAloud(), max_hold=60)
def count_sales(self: Task, seconds: float = 0.5) -> None:
    """Counts what was sold so far."""
    with recorded(self):
        time.sleep(seconds)


# "until_expired", "skip": at most once in 50 s, however many beats there are and whoever else asks.
@app.task(base=LockedTask, bind=True, lock_scope="until_expired", lock_ttl=50, lock_on_contention="skip")
def look_for_forgotten_carts(self: LockedTask, seconds: float = 0.2) -> None:
    """Looks for carts that nobody has paid."""
    with recorded(self):
        time.sleep(seconds)


# "skip": the night's work must not run beside itself, and needs no second run when it is still at it.
@app.task(base=LockedTask, bind=True, lock_key="day", lock_on_contention="skip", **AGAIN)
def close_day(self: LockedTask, seconds: float = 5.0) -> None:
    """Closes the books of a day."""
    with recorded(self):
        time.sleep(seconds)
