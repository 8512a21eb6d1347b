"""Tasks about a shop's catalogue."""

from __future__ import annotations

import time

from celery_locks import LockedTask
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.lost_leases import RETRY_AFTER_LOSS


# "while_executing", "retry" (the defaults): a full rebuild takes longer than the ttl, so its lease is renewed.
@app.task(base=LockedTask, bind=True, lock_key="catalogue:<shop_id>", **RETRY_AFTER_LOSS)
def rebuild_catalogue(self: LockedTask, shop_id: int, seconds: float = 3.0, full: bool = False) -> None:
    """Write a shop's catalogue again."""
    with recorded(self):
        time.sleep(seconds)


# "until_executed", "existing": a call during a queued or running task gets the result of that task.
@app.task(
    base=LockedTask,
    bind=True,
    lock_key="search:<shop_id>",
    lock_scope="until_executed",
    lock_ttl=600,
    **RETRY_AFTER_LOSS,
)
def index_for_search(self: LockedTask, shop_id: int, seconds: float = 2.0) -> None:
    """Add a shop's products to the search index. A call may wait for its run as long as the ttl."""
    with recorded(self):
        time.sleep(seconds)


# "until_and_while_executing": a refresh that is still queued will read the new price, so one more is not needed. A
# refresh that runs may have read the old price. So the next is queued, and retried until the first has ended.
@app.task(
    base=LockedTask,
    bind=True,
    lock_key="prices:<shop_id>",
    lock_scope="until_and_while_executing",
    lock_on_contention={"call": "skip", "run": "retry"},
    lock_ttl=600,
    **RETRY_AFTER_LOSS,
)
def refresh_prices(self: LockedTask, shop_id: int, seconds: float = 2.0) -> None:
    """Write a shop's prices to its pages."""
    with recorded(self):
        time.sleep(seconds)


# "replace": only the newest text counts. A run that still writes an older text loses its lease and is aborted.
@app.task(base=LockedTask, bind=True, lock_key="page:<page_id>", lock_on_contention="replace")
def publish_page(self: LockedTask, page_id: int, text: str = "", seconds: float = 2.0) -> None:
    """Publish a page. A run that loses its lease is not retried, because a newer text replaced it."""
    with recorded(self):
        time.sleep(seconds)
