"""Three tasks, each locked in another of the ways there are. The shop's work is played by `time.sleep`."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from celery_locks import LockedTask, LockLost, current_lease, single_instance
from example_project.shop import database
from example_project.shop.app import app
from example_project.shop.journal import recorded

#: A run whose lease was lost (its worker was stopped for longer than the ttl, say) is stopped, and begins anew.
AGAIN: dict[str, Any] = {
    "autoretry_for": (LockLost, database.StaleWriteError),
    "max_retries": 20,
    "retry_backoff": True,
}


# 1. The decorator below ``@app.task``. Two syncs of one customer never run at once; those of others do.
@app.task(bind=True, **AGAIN)
@single_instance(key="customer:<customer_id>")
def sync_customer(self: Task, customer_id: int, seconds: float) -> None:
    """Fetches a customer from the other system that knows him."""
    with recorded(self):
        time.sleep(seconds)


# 2. The base class. A full rebuild takes longer than the ttl: its lease is renewed while it runs.
@app.task(base=LockedTask, bind=True, lock_key="catalogue:<shop_id>", **AGAIN)
def rebuild_catalogue(self: LockedTask, shop_id: int, seconds: float, full: bool = False) -> None:
    """Writes a shop's catalogue anew."""
    with recorded(self):
        time.sleep(seconds)


# 3. The decorator above ``@app.task``, with a policy of its own and a write that is fenced.
@single_instance(key="account:<customer_id>", on_contention="retry")
@app.task(bind=True, **AGAIN)
def charge_order(self: Task, order_id: int, customer_id: int, cents: int, seconds: float) -> None:
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
