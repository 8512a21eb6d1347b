"""The app of the chaos test for parked tasks: its tasks write a begin and an end, and Celery's signals the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import task_postrun, task_prerun

from celery_locks import LockedTask
from tests.chaos.app import write_down
from tests.chaos.history import History

#: Seconds that a lease lives without renewal: no process of a busy machine stands still for that long.
TTL = 4.0
#: Seconds after which a Redis broker delivers a message again that was not acknowledged.
VISIBILITY_SECONDS = 5


def make_app(variables: Mapping[str, str]) -> Celery:
    """Return the app.

    Args:
        variables: ``PARKED_BROKER``, ``PARKED_STORE`` and ``PARKED_RESULTS``, three addresses; ``PARKED_QUEUE``, the
            only queue; ``PARKED_LATE``, ``1`` for late acknowledgement; ``PARKED_BEFORE_POOL``, ``1`` for a worker
            whose parent parks; ``PARKED_HISTORY``, a folder for the history; ``PARKED_FOLDER``, where workers write
            down what they hold.
    """
    broker, late = variables["PARKED_BROKER"], variables["PARKED_LATE"] == "1"
    app = Celery("parked", broker=broker, backend=variables["PARKED_RESULTS"], set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_transport_options=_transport(broker),
        task_default_queue=variables["PARKED_QUEUE"],
        task_acks_late=late,
        task_reject_on_worker_lost=late,
        worker_cancel_long_running_tasks_on_connection_loss=late,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_proc_alive_timeout=60,
        locks_url=variables["PARKED_STORE"],
        locks_folder=variables["PARKED_FOLDER"],
        locks_park_before_pool=variables.get("PARKED_BEFORE_POOL") == "1",
        locks_sweep_interval=1,
        locks_call_ttl=2,
    )
    _define(app, History(Path(variables["PARKED_HISTORY"])))
    return app


def _transport(broker: str) -> dict[str, Any]:
    if not broker.startswith("redis"):
        return {}
    return {"visibility_timeout": VISIBILITY_SECONDS, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


def _define(app: Celery, history: History) -> None:
    @app.task(
        bind=True,
        shared=False,
        name="sync",
        base=LockedTask,
        lock_key="<key>",
        lock_ttl=TTL,
        lock_on_contention="park",
    )
    def sync(self: Any, key: str, seconds: float) -> str:
        lease, task_id, reason = self.lease, self.request.id, "interrupted"
        try:
            history.write("begin", key=key, token=lease.token, fence=lease.fencing_token, task_id=task_id)
            time.sleep(seconds)
            reason = ""
        finally:
            history.write("end", key=key, token=lease.token, task_id=task_id, reason=reason)
        return key


def _write_runs(history: History) -> None:
    """Write an ``enter`` before each run that a worker's process makes of a message, and a ``leave`` after it.

    A message that only parks its task makes such a run too.
    """

    def entered(sender: Any, task_id: str, **_: Any) -> None:
        history.write("enter", task_id=task_id)

    def left(sender: Any, task_id: str, state: str | None = None, **_: Any) -> None:
        history.write("leave", task_id=task_id, reason=state or "")

    task_prerun.connect(entered, weak=False)
    task_postrun.connect(left, weak=False)


if "PARKED_HISTORY" in os.environ:
    app = make_app(os.environ)
    write_down(History(Path(os.environ["PARKED_HISTORY"])))
    _write_runs(History(Path(os.environ["PARKED_HISTORY"])))
