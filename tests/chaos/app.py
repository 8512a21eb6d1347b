"""The app of the chaos suite: tasks that write down what they hold and what they do."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import task_failure, task_success

from celery_locks import Backoff, Lease, LockedTask, LockLost
from celery_locks.signals import on_lock_acquired, on_lock_lost, on_lock_released, on_lock_renewed
from tests.chaos.history import History, Register

#: Seconds that a lease lives.
TTL = 2.0
_ONE, _CALLED, _TWO = ([f"{name}-{n}" for n in range(most)] for name, most in (("one", 12), ("called", 4), ("two", 4)))
#: Tasks, and their keys.
KEYS = {"retry": _ONE, "park": _ONE, "told": _ONE, "executed": _CALLED, "retry_two": _TWO, "park_two": _TWO}
#: Seconds between two writes of a body.
STEP = 0.05


def make_app(variables: Mapping[str, str]) -> Celery:
    """The app.

    Args:
        variables: ``CHAOS_BROKER`` and ``CHAOS_STORE``, two servers; ``CHAOS_HISTORY``, a folder for the history;
            ``CHAOS_FOLDER``, where workers write down what they hold.
    """
    app = Celery("chaos", broker=variables["CHAOS_BROKER"], set_as_current=False)
    folder = Path(variables["CHAOS_HISTORY"])
    app.conf.update(
        chaos_history=str(folder),
        broker_connection_retry_on_startup=True,
        broker_transport_options=_transport(variables["CHAOS_BROKER"]),
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_proc_alive_timeout=60,
        locks_url=variables["CHAOS_STORE"],
        locks_folder=variables["CHAOS_FOLDER"],
        locks_sweep_interval=1,
        locks_call_ttl=5,
    )
    _define(app, History(folder))
    return app


def _transport(broker: str) -> dict[str, Any]:
    if not broker.startswith("redis"):
        return {}
    return {"visibility_timeout": 15, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


def _define(app: Celery, history: History) -> None:
    register = Register(history.folder, history)

    def body(self: Any, key: str, seconds: float) -> None:
        lease: Lease = self.lease
        told: dict[str, Any] = {
            "key": key,
            "token": lease.token,
            "fence": lease.fencing_token,
            "limit": lease._claim.limit,
        }
        reason = "aborted"
        try:
            history.write("begin", task_id=self.request.id, **told)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                # Without looking at the lease: what is refused late must be refused by the register.
                register.write(**told)
                time.sleep(STEP)
            reason = ""
        finally:
            history.write("end", key=key, token=lease.token, task_id=self.request.id, reason=reason)

    options = {
        "bind": True,
        "shared": False,
        "base": LockedTask,
        "lock_key": "<key>",
        "lock_ttl": TTL,
        "lock_backoff": Backoff(base=0.1, cap=1.0),
        "autoretry_for": (LockLost,),
        "max_retries": None,
        "retry_backoff": False,
        "default_retry_delay": 0.2,
        "retry_kwargs": {"countdown": 0.2},
    }
    parks = {"lock_on_contention": "park", "lock_park_safety_copy": 6}  # comes when the store has forgotten the ticket
    app.task(body, name="retry", **options)
    app.task(
        body, name="told", lock_on_lost="signal", **options
    )  # goes on when it has lost: the register must refuse it
    app.task(body, name="retry_two", lock_limit=2, **options)
    app.task(body, name="park", **parks, **options)
    app.task(body, name="park_two", lock_limit=2, **parks, **options)
    app.task(body, name="executed", lock_scope="until_executed", **options)


def write_down(history: History) -> None:
    """Has what happens to leases and runs in this process, and in its children, written to a history."""

    def acquired(sender: Any, lease: Lease, **_: Any) -> None:
        told = {"fence": lease.fencing_token, "limit": lease._claim.limit, "sent": lease._confirmed, "ttl": lease.ttl}
        history.write("acquire", key=lease.key, token=lease.token, **told)
        _tell_before(history, lease)

    def renewed(sender: Any, lease: Lease, **_: Any) -> None:
        history.write("renew", key=lease.key, token=lease.token, sent=lease._confirmed, ttl=lease.ttl)

    def released(sender: Any, lease: Lease, **_: Any) -> None:
        history.write("release", key=lease.key, token=lease.token)

    def lost(sender: Any, lease: Lease, reason: str, **_: Any) -> None:
        history.write("lost", key=lease.key, token=lease.token, reason=reason)

    def success(sender: Any, **_: Any) -> None:
        history.write("success", task_id=sender.request.id)

    def failure(sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        history.write("failed", task_id=task_id, reason=repr(exception))

    on_lock_acquired.connect(acquired, weak=False)
    on_lock_renewed.connect(renewed, weak=False)
    on_lock_released.connect(released, weak=False)
    on_lock_lost.connect(lost, weak=False)
    task_success.connect(success, weak=False)
    task_failure.connect(failure, weak=False)


def _tell_before(history: History, lease: Any) -> None:
    """Has a ``let_go`` written before the lease is released or handed over: from then on its holder doesn't believe.

    The signal comes when the store has confirmed it, and by then another may have the key.
    """

    def first(act: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            history.write("let_go", key=lease.key, token=lease.token)
            return act(*args)

        return wrapped

    lease.release, lease._hand_over = first(lease.release), first(lease._hand_over)


if "CHAOS_HISTORY" in os.environ:
    app = make_app(os.environ)
    write_down(History(Path(os.environ["CHAOS_HISTORY"])))
