"""Tasks about the warehouse."""

from __future__ import annotations

import time

from celery import Task

from celery_locks import LockedTask, single_instance
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.lost_leases import RETRY_AFTER_LOSS


# "park": in a sale many orders need one product. They wait in line in the store, in the order of their arrival. With
# "retry" some would be served late by chance, and their messages would fill the broker.
@app.task(base=LockedTask, bind=True, lock_key="stock:<product_id>", lock_on_contention="park", **RETRY_AFTER_LOSS)
def take_from_stock(self: LockedTask, product_id: int, pieces: int = 1, seconds: float = 0.5) -> None:
    """Take pieces of a product for an order."""
    with recorded(self):
        time.sleep(seconds)


# "until_executing": a queued count will include all changes until it starts, so one in the queue is enough.
@app.task(base=LockedTask, bind=True, lock_key="count:<warehouse_id>", lock_scope="until_executing", lock_ttl=600)
def count_stock(self: LockedTask, warehouse_id: int, seconds: float = 1.0) -> None:
    """Count a warehouse."""
    with recorded(self):
        time.sleep(seconds)


# "wait": a label is printed within a second, so a worker's slot may wait for the printer. After 20 s the task fails.
@app.task(bind=True)
@single_instance(key="printer:<printer_id>", on_contention="wait", max_wait=20)
def print_label(self: Task, printer_id: int, seconds: float = 0.3) -> None:
    """Print the label of a parcel."""
    with recorded(self):
        time.sleep(seconds)
