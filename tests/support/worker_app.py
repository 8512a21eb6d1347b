"""The Celery app that the worker of `test_support.py` runs."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from tests.support.waiting import eventually

app = Celery("support", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
app.conf.broker_connection_retry_on_startup = True


@app.task
def pid() -> int:
    """The process that runs it."""
    return os.getpid()


@app.task
def wait_for_file(path: str) -> str:
    """Runs until the file is there."""
    eventually(Path(path).exists, timeout=30)
    return "seen"
