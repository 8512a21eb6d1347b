"""The app that the benchmarks' workers run: the same body with and without a lock."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from celery import Celery
from celery.signals import task_received

from benchmarks.sides import plugins
from celery_locks import LockedTask

logger = logging.getLogger(__name__)

url = os.environ.get("BENCHMARK_URL", "")
app = Celery("benchmark")
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=int(os.environ.get("BENCHMARK_PREFETCH", "4")),
    locks_park_before_pool="BENCHMARK_PARK_IN_POOL" not in os.environ,
    locks_direct_dispatch="BENCHMARK_PUBLISH" not in os.environ,
    task_ignore_result="BENCHMARK_IGNORE_RESULT" in os.environ,
    task_acks_late="BENCHMARK_ACKS_LATE" in os.environ,
)


def use_server(url: str, broker: str = "", store: str = "") -> None:
    """Has the app keep results in this Redis, and messages and locks too, unless others are named for them."""
    app.conf.update(broker_url=broker or url, result_backend=url, locks_url=store or url, **plugins.settings(url))


def use_queues(kind: str) -> None:
    """Has the app use RabbitMQ's queues of this kind, ``classic`` or ``quorum``."""
    app.conf.update(task_default_queue_type=kind)
    if kind == "quorum":  # Celery keeps messages for those back at the broker, behind topic exchanges only
        app.conf.update(task_default_exchange="storm", task_default_exchange_type="topic")


if url:
    use_server(url, os.environ.get("BENCHMARK_BROKER", ""), os.environ.get("BENCHMARK_STORE", ""))
if "BENCHMARK_QUEUES" in os.environ:
    use_queues(os.environ["BENCHMARK_QUEUES"])


def body(number: int, seconds: float = 0.0) -> None:
    time.sleep(seconds)


plain = app.task(body, name="plain")
locked = app.task(body, name="locked", base=LockedTask, lock_key="number:<number>")
locked_at_call = app.task(
    body, name="locked_at_call", base=LockedTask, lock_key="number:<number>", lock_scope="until_executed"
)


@task_received.connect(weak=False)
def log_direct_dispatch(request: Any, **_: Any) -> None:
    """Logs each task that the worker got without a message of the broker."""
    if type(request.message.channel).__module__.startswith("celery_locks."):
        logger.info("dispatched directly")


def write_stretch(kind: str, begin: float, end: float, key: str = "") -> None:
    """Keeps when a body began and ended, on the clock that all processes of the machine share."""
    app.backend.client.rpush(f"storm:{kind}", f"{begin} {end} {key}")


def storm_body(key: str, seconds: float) -> None:
    begin = time.monotonic()
    time.sleep(seconds)
    write_stretch("run", begin, time.monotonic(), key)


storm_free = app.task(storm_body, name="storm_free", ignore_result=True)
storm_park = app.task(
    storm_body, name="storm_park", base=LockedTask, lock_key="<key>", lock_on_contention="park", ignore_result=True
)
storm_retry = app.task(storm_body, name="storm_retry", base=LockedTask, lock_key="<key>", ignore_result=True)

storm_at_call = app.task(
    storm_body,
    name="storm_at_call",
    base=LockedTask,
    lock_key="<key>",
    lock_scope="until_executed",
    ignore_result=True,
)

#: By the plug-in's name: what `locked` is here; what `storm_retry` is; and the same, raising when the key is taken.
PLUGINS = plugins.installed()
free_of = {name: plugin.task(app, f"free: {name}", body) for name, plugin in PLUGINS.items()}
storm_of = {
    name: plugin.task(app, f"storm: {name}", storm_body, ignore_result=True) for name, plugin in PLUGINS.items()
}
telling_of = {
    name: plugin.task(app, f"telling: {name}", storm_body, telling=True, ignore_result=True)
    for name, plugin in PLUGINS.items()
}


@app.task(ignore_result=True)
def unrelated(sent: float) -> None:
    write_stretch("unrelated", sent, time.monotonic())
