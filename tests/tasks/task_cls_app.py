"""An app all of whose tasks are locked: ``task_cls``."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from tests.tasks.bodies import work

url = os.environ.get("SHOP_URL", "")
app = Celery("whole", broker=url, backend=url, task_cls="celery_locks:LockedTask")
app.conf.update(
    shop_journal=url,
    locks_url=url,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    locks_backoff={"base": 0.05, "cap": 0.2},
)


@app.task(bind=True)
def plain(self: Any, key: str, seconds: float = 0.0) -> str:
    return work(self, key, seconds)


@app.task(bind=True, lock_enabled=False)
def free(self: Any, key: str, seconds: float = 0.0) -> str:
    return work(self, key, seconds)
