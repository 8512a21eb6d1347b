"""Tasks about a customer."""

from __future__ import annotations

import time

from celery import Task

from celery_locks import LockedTask, single_instance
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.lost_leases import RETRY_AFTER_LOSS

DAY = 24 * 3600


# "while_executing", "retry" (the defaults): every sync must run, and may wait. Two of one customer must not overlap.
@app.task(bind=True, **RETRY_AFTER_LOSS)
@single_instance(key="customer:<customer_id>")
def sync_customer(self: Task, customer_id: int, seconds: float = 0.5) -> None:
    """Fetch the data of a customer from another system."""
    with recorded(self):
        time.sleep(seconds)


# "until_expired", "skip": one reminder a day, for any number of forgotten carts. Only its ttl ends this lease.
@app.task(
    base=LockedTask,
    bind=True,
    lock_key="reminder:<customer_id>",
    lock_scope="until_expired",
    lock_ttl=DAY,
    lock_on_contention="skip",
)
def remind_customer(self: LockedTask, customer_id: int, seconds: float = 0.2) -> None:
    """Remind a customer by mail of a forgotten cart."""
    with recorded(self):
        time.sleep(seconds)


# "park", a limit of 3: the mail server accepts three mails at a time. Others wait in line, without a worker's slot.
@app.task(bind=True, **RETRY_AFTER_LOSS)
@single_instance(key="mail-server", limit=3, on_contention="park", max_wait=DAY)
def send_mail(self: Task, customer_id: int, seconds: float = 0.5) -> None:
    """Send a mail to a customer."""
    with recorded(self):
        time.sleep(seconds)


# Two of the same three permits, since a newsletter has many recipients. It keeps its place in line before later mails.
@app.task(bind=True, **RETRY_AFTER_LOSS)
@single_instance(key="mail-server", limit=3, permits=2, on_contention="park", max_wait=DAY)
def send_newsletter(self: Task, edition: int, seconds: float = 2.0) -> None:
    """Send an edition of the newsletter."""
    with recorded(self):
        time.sleep(seconds)
