"""The task whose runs `benchmarks.replace` takes the lease from."""

from __future__ import annotations

import os
import time

from benchmarks.app import app
from celery_locks import LockedTask

if "BENCHMARK_STORE" in os.environ:
    app.conf.locks_url = os.environ["BENCHMARK_STORE"]


@app.task(base=LockedTask, lock_key="<number>", lock_ttl=30, ignore_result=True)
def endless(number: int) -> None:
    try:
        app.backend.client.rpush("replace:begun", number)
        while True:
            time.sleep(1)
    finally:
        app.backend.client.rpush("replace:ended", time.perf_counter())
