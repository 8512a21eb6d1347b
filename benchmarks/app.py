"""The app that the benchmarks' workers run: the same body with and without a lock."""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_locks import LockedTask

url = os.environ.get("BENCHMARK_URL", "")
app = Celery("benchmark", broker=url, backend=url)
app.conf.update(
    locks_url=url,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCHMARK_PREFETCH", "4")),
    task_ignore_result="BENCHMARK_IGNORE_RESULT" in os.environ,
)


@app.task
def plain(number: int, seconds: float = 0.0) -> None:
    time.sleep(seconds)


@app.task(base=LockedTask, lock_key="number:<number>")
def locked(number: int, seconds: float = 0.0) -> None:
    time.sleep(seconds)
