"""The app that the benchmarks' workers run: the same body with and without a lock."""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_locks import LockedTask

url = os.environ.get("BENCHMARK_URL", "")
app = Celery("benchmark", broker=os.environ.get("BENCHMARK_BROKER", url), backend=url)
app.conf.update(
    locks_url=url,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCHMARK_PREFETCH", "4")),
    locks_park_before_pool="BENCHMARK_PARK_BEFORE_POOL" in os.environ,
    task_ignore_result="BENCHMARK_IGNORE_RESULT" in os.environ,
)


def use_queues(kind: str) -> None:
    """Has the app use RabbitMQ's queues of this kind, ``classic`` or ``quorum``."""
    app.conf.update(task_default_queue_type=kind)
    if kind == "quorum":  # Celery keeps messages for those back at the broker, behind topic exchanges only
        app.conf.update(task_default_exchange="storm", task_default_exchange_type="topic")


if "BENCHMARK_QUEUES" in os.environ:
    use_queues(os.environ["BENCHMARK_QUEUES"])


@app.task
def plain(number: int, seconds: float = 0.0) -> None:
    time.sleep(seconds)


@app.task(base=LockedTask, lock_key="number:<number>")
def locked(number: int, seconds: float = 0.0) -> None:
    time.sleep(seconds)


def write_stretch(kind: str, begin: float, end: float) -> None:
    """Keeps when a body began and ended, on the clock that all processes of the machine share."""
    app.backend.client.rpush(f"storm:{kind}", f"{begin} {end}")


def storm_body(key: str, seconds: float) -> None:
    begin = time.monotonic()
    time.sleep(seconds)
    write_stretch("run", begin, time.monotonic())


storm_free = app.task(storm_body, name="storm_free", ignore_result=True)
storm_park = app.task(
    storm_body, name="storm_park", base=LockedTask, lock_key="<key>", lock_on_contention="park", ignore_result=True
)
storm_retry = app.task(storm_body, name="storm_retry", base=LockedTask, lock_key="<key>", ignore_result=True)

try:
    from celery_heimdall import HeimdallTask
except ImportError:  # only `make bench` installs it
    storm_heimdall = None
else:
    storm_heimdall = app.task(
        storm_body,
        name="storm_heimdall",
        base=HeimdallTask,
        heimdall={"unique": True, "key": "key", "unique_raises": True},
        ignore_result=True,
    )


@app.task(ignore_result=True)
def unrelated(sent: float) -> None:
    write_stretch("unrelated", sent, time.monotonic())
