"""Tasks about a shop's catalogue."""

from __future__ import annotations

import time

from celery_locks import LockedTask
from example_project.shop.app import app
from example_project.shop.journal import recorded
from example_project.shop.tasks.again import AGAIN


# "while_executing", "retry": a full rebuild takes longer than the ttl; its lease is renewed while it runs.
@app.task(base=LockedTask, bind=True, lock_key="catalogue:<shop_id>", **AGAIN)
def rebuild_catalogue(self: LockedTask, shop_id: int, seconds: float = 3.0, full: bool = False) -> None:
    """Writes a shop's catalogue anew."""
    with recorded(self):
        time.sleep(seconds)


# "until_executed", "existing": what is asked for while one is queued or runs is done by that one, and gets its result.
@app.task(base=LockedTask, bind=True, lock_key="search:<shop_id>", lock_scope="until_executed", lock_ttl=600, **AGAIN)
def index_for_search(self: LockedTask, shop_id: int, seconds: float = 2.0) -> None:
    """Makes a shop's products known to the search. The ttl says how long a call may wait for its run."""
    with recorded(self):
        time.sleep(seconds)


# "until_and_while_executing": a refresh that still waits will see the new price, so one more is needless; one that
# runs may have read the old one, so the next is queued, and waits ("retry") until the first has ended.
@app.task(
    base=LockedTask,
    bind=True,
    lock_key="prices:<shop_id>",
    lock_scope="until_and_while_executing",
    lock_on_contention={"call": "skip", "run": "retry"},
    lock_ttl=600,
    **AGAIN,
)
def refresh_prices(self: LockedTask, shop_id: int, seconds: float = 2.0) -> None:
    """Writes a shop's prices to its pages."""
    with recorded(self):
        time.sleep(seconds)


# "replace": only the newest text counts. A run that still writes an older one loses its lease and is stopped.
@app.task(base=LockedTask, bind=True, lock_key="page:<page_id>", lock_on_contention="replace")
def publish_page(self: LockedTask, page_id: int, text: str = "", seconds: float = 2.0) -> None:
    """Publishes a page. It is not begun anew when its lease was lost: it lost it to a newer text."""
    with recorded(self):
        time.sleep(seconds)
