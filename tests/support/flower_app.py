"""The app of the tests of Flower."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery

from tests.support.waiting import eventually

app = Celery("flowers", broker=os.environ["FLOWERS_URL"], backend=os.environ["FLOWERS_URL"])
app.conf.broker_connection_retry_on_startup = True
app.conf.locks_events = True
app.conf.locks_stores = json.loads(os.environ.get("FLOWERS_STORES", "{}"))

try:
    from celery_locks import LockedTask
except ImportError:  # a test takes this package away
    LockedTask = None  # type: ignore[misc,assignment]

if LockedTask is not None:

    @app.task(name="shop.resync", base=LockedTask, lock_key="shop:<shop_id>", lock_on_contention="park", lock_ttl=6)
    def resync(shop_id: Any, until: str) -> str:
        """Holds the shop until a file is there."""
        eventually(Path(until).exists, timeout=100)
        return "done"
