"""Tasks about a customer."""

from __future__ import annotations

import time

from celery import Task

from celery_locks import LockedTask, single_instance
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.again import AGAIN

DAY = 24 * 3600


# "while_executing", "retry" (the defaults): every sync must be done and may wait; two of one customer must not meet.
@app.task(bind=True, **AGAIN)
@single_instance(key="customer:<customer_id>")
def sync_customer(self: Task, customer_id: int, seconds: float = 0.5) -> None:
    """Fetches a customer from the other system that knows him."""
    with recorded(self):
        time.sleep(seconds)


# "until_expired", "skip": one reminder a day, however many carts he forgets; nobody ends this lease but its ttl.
@app.task(
    base=LockedTask,
    bind=True,
    lock_key="reminder:<customer_id>",
    lock_scope="until_expired",
    lock_ttl=DAY,
    lock_on_contention="skip",
)
def remind_customer(self: LockedTask, customer_id: int, seconds: float = 0.2) -> None:
    """Mails a customer that there is something in his cart."""
    with recorded(self):
        time.sleep(seconds)


# "park", a limit of 3: the mail server takes three mails at once; the others wait in line and take no worker's slot.
@app.task(bind=True, **AGAIN)
@single_instance(key="mail-server", limit=3, on_contention="park", max_wait=DAY)
def send_mail(self: Task, customer_id: int, seconds: float = 0.5) -> None:
    """Sends a mail to a customer."""
    with recorded(self):
        time.sleep(seconds)


# Two permits of the same three: a newsletter goes to many at once. Its place in line is kept: mails don't starve it.
@app.task(bind=True, **AGAIN)
@single_instance(key="mail-server", limit=3, permits=2, on_contention="park", max_wait=DAY)
def send_newsletter(self: Task, edition: int, seconds: float = 2.0) -> None:
    """Sends an edition of the newsletter."""
    with recorded(self):
        time.sleep(seconds)
