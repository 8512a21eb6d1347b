"""Tasks that move money."""

from __future__ import annotations

import time

from celery import Task

from celery_locks import LockedTask, current_lease, single_instance
from example_project.shop import database
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.again import AGAIN


# "retry", and a write that is fenced: every charge must be done, and none may overwrite another.
@single_instance(key="account:<customer_id>", on_contention="retry")
@app.task(bind=True, **AGAIN)
def charge_order(self: Task, order_id: int, customer_id: int, cents: int = 1000, seconds: float = 0.3) -> None:
    """Charges an order to its customer's account.

    Read, ask the bank, write: two at once would both read the same balance, and one charge would vanish. The lock
    keeps them apart. The fencing token goes along with the write, so that the database itself refuses a run that was
    stopped in the middle, lost its lease, and woke up again after another had written.
    """
    lease = current_lease()
    with recorded(self):
        balance = database.balance(customer_id)
        time.sleep(seconds)
        database.charge(order_id, customer_id, cents, balance + cents, lease.fencing_token if lease else None)


# "until_executed", "raise": whoever asks for a second payout while one is on its way is told so at the call.
@app.task(
    base=LockedTask,
    bind=True,
    lock_key="payout:<supplier_id>",
    lock_scope="until_executed",
    lock_on_contention={"call": "raise"},
    lock_ttl=600,
)
def pay_supplier(self: LockedTask, supplier_id: int, seconds: float = 2.0) -> None:
    """Pays what a supplier is owed."""
    with recorded(self):
        time.sleep(seconds)


# "reject": two refunds of one order at once are a mistake that somebody should see; the second goes to the dead-letter
# queue, where the broker has one (RabbitMQ; with Redis it is gone, and the log says so).
@app.task(base=LockedTask, bind=True, lock_key="refund:<order_id>", lock_on_contention="reject")
def refund_order(self: LockedTask, order_id: int, seconds: float = 1.0) -> None:
    """Gives a customer his money back."""
    with recorded(self):
        time.sleep(seconds)
