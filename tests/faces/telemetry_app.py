"""The app of the tests for metrics and events; its settings are variables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from celery_locks import Backoff, LockedTask
from tests.support.waiting import eventually

app = Celery("watched", broker=os.environ["WATCHED_BROKER"], backend=os.environ["WATCHED_URL"])
app.conf.update(
    locks_url=os.environ["WATCHED_URL"],
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    worker_proc_alive_timeout=60,
    worker_hijack_root_logger=False,
    **json.loads(os.environ["WATCHED_SETTINGS"]),
)
options: dict[str, Any] = {
    "base": LockedTask,
    "lock_key": "<key>",
    "lock_ttl": 5,
    "lock_backoff": Backoff(0.05, cap=0.2),
}


@app.task(name="held", **options)
def held(key: str, until: str) -> None:
    """Runs until there is such a file."""
    eventually(Path(until).exists, timeout=90)


def at_once(key: str) -> None:
    """Runs at once."""


app.task(at_once, name="short", **options)
for policy in ("wait", "retry", "park"):
    app.task(at_once, name=f"impatient_{policy}", **options, lock_on_contention=policy, lock_max_wait=0.5)
app.task(at_once, name="retries_late", **{**options, "lock_backoff": Backoff(60, cap=60)})


if app.conf.get("locks_stores"):
    app.task(at_once, name="booked", **options, lock_store="audit")


@app.task(name="parked", **options, lock_on_contention="park")
def parked(key: str) -> None:
    """Waits in line for its key."""


@worker_ready.connect
def add_a_task(**kwargs: Any) -> None:
    """While the worker runs."""
    app.task(at_once, name="late", **options)
