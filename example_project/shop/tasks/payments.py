"""Tasks that move money."""

from __future__ import annotations

import time

from celery import Task

from celery_locks import LockedTask, current_lease, single_instance
from example_project.shop import database
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.lost_leases import RETRY_AFTER_LOSS


# "retry", and a write with a fencing token: every charge must be made, and none may overwrite another.
@single_instance(key="account:<customer_id>", on_contention="retry")
@app.task(bind=True, **RETRY_AFTER_LOSS)
def charge_order(self: Task, order_id: int, customer_id: int, cents: int = 1000, seconds: float = 0.3) -> None:
    """Charge an order to its customer's account.

    A run reads the balance, asks the bank, and writes. Two runs at the same time would read the same balance, and one
    charge would be lost. The lock prevents that. The write includes the fencing token. With it the database refuses a
    run that was paused, lost its lease, and continued after a later run had written.
    """
    lease = current_lease()
    with recorded(self):
        balance = database.balance(customer_id)
        time.sleep(seconds)
        database.charge(order_id, customer_id, cents, balance + cents, lease.fencing_token if lease else None)


# "until_executed", "raise": a call for a second payout raises an error while the first is queued or runs.
@app.task(
    base=LockedTask,
    bind=True,
    lock_key="payout:<supplier_id>",
    lock_scope="until_executed",
    lock_on_contention={"call": "raise"},
    lock_ttl=600,
)
def pay_supplier(self: LockedTask, supplier_id: int, seconds: float = 2.0) -> None:
    """Pay the debts to a supplier."""
    with recorded(self):
        time.sleep(seconds)


# "reject": two refunds of one order at the same time are a mistake. RabbitMQ moves the second to its dead-letter queue,
# where operators find it. With Redis it is dropped, and the log records it.
@app.task(base=LockedTask, bind=True, lock_key="refund:<order_id>", lock_on_contention="reject")
def refund_order(self: LockedTask, order_id: int, seconds: float = 1.0) -> None:
    """Return a customer's money."""
    with recorded(self):
        time.sleep(seconds)
