"""The tasks of these tests. Workers get this module as source: it imports nothing but what is installed."""

from __future__ import annotations

import time
from typing import Any

from celery import shared_task
from celery.utils.log import get_task_logger

from celery_locks import Backoff, Lease, LockedTask, Locks, current_lease, single_instance

logger = get_task_logger(__name__)


class Keyed(LockedTask):
    """A task that is locked by its argument ``key``, and that logs what it loses."""

    abstract = True
    lock_key = "<key>"
    lock_ttl = 10
    lock_backoff = Backoff(base=0.05, cap=0.2)

    def on_lock_lost(self, lease: Lease, reason: str) -> None:
        logger.warning("on_lock_lost: %s of %s", reason, lease.key)


def run(task: Any, seconds: float, gate: str | None) -> dict[str, Any]:
    """Take some seconds, and wait while another key is held; return when, where and under which lease that was."""
    lease = current_lease()
    began = time.monotonic()
    if gate is not None:
        assert Locks.from_app(task.app).lock(gate).wait(timeout=60), f"the gate {gate} was never opened"
    time.sleep(seconds)
    return {
        "began": began,
        "ended": time.monotonic(),
        "worker": task.request.hostname,
        "retries": task.request.retries,
        "fence": lease.fencing_token if lease is not None else None,
    }


def loop(seconds: float) -> str:
    """Return after some seconds, unless something stops it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return "never stopped"


# --- What a run does that finds its key held ---


@shared_task(bind=True, base=Keyed)
def retries(self: Any, key: str, seconds: float = 0.0, gate: str | None = None) -> dict[str, Any]:
    return run(self, seconds, gate)


@shared_task(bind=True, base=Keyed, lock_on_contention="wait")
def waits(self: Any, key: str, seconds: float = 0.0, gate: str | None = None) -> dict[str, Any]:
    return run(self, seconds, gate)


@shared_task(bind=True, base=Keyed, lock_on_contention="park")
def parks(self: Any, key: str, seconds: float = 0.0, gate: str | None = None) -> dict[str, Any]:
    return run(self, seconds, gate)


@shared_task(bind=True)
@single_instance(key="<key>", on_contention="skip")
def skips(self: Any, key: str) -> dict[str, Any]:
    return run(self, 0, None)


@single_instance(key="<key>", on_contention="raise")
@shared_task(bind=True)
def raises(self: Any, key: str) -> dict[str, Any]:
    return run(self, 0, None)


@shared_task(bind=True, base=Keyed, lock_on_contention="reject", acks_late=True)
def rejects(self: Any, key: str) -> dict[str, Any]:
    return run(self, 0, None)


@shared_task(base=Keyed, lock_ttl=1.5, lock_on_contention="replace")
def replaces(key: str, seconds: float) -> str:
    return loop(seconds)


@shared_task(base=Keyed, lock_max_wait=0.5)
def retries_briefly(key: str) -> None: ...


@shared_task(base=Keyed, lock_max_wait=0.5, lock_on_contention="wait")
def waits_briefly(key: str) -> None: ...


@shared_task(base=Keyed, lock_max_wait=0.5, lock_on_contention="park")
def parks_briefly(key: str) -> None: ...


# --- Limits and scopes ---


@shared_task(bind=True, base=Keyed, lock_limit=2)
def two_at_once(self: Any, key: str, seconds: float = 0.0, gate: str | None = None) -> dict[str, Any]:
    return run(self, seconds, gate)


@shared_task(bind=True, base=Keyed, lock_scope="until_executed")
def once_called(self: Any, key: str, gate: str | None = None) -> dict[str, Any]:
    return run(self, 0, gate)


@shared_task(bind=True, base=Keyed, lock_scope="until_executed", lock_on_contention={"call": "raise"})
def once_called_or_raises(self: Any, key: str, gate: str | None = None) -> dict[str, Any]:
    return run(self, 0, gate)


@shared_task(bind=True, base=Keyed, lock_scope="until_executing")
def once_in_line(self: Any, key: str, gate: str | None = None) -> dict[str, Any]:
    return run(self, 0, gate)


# --- Leases that end before their run ---


@shared_task(base=Keyed, lock_ttl=1.5)
def is_aborted(key: str) -> str:
    return loop(60)


@shared_task(base=Keyed, lock_ttl=1.5, lock_on_lost="signal")
def is_notified(key: str) -> str:
    return loop(2)


@shared_task(base=Keyed, lock_ttl=1.5, lock_max_hold=1)
def hangs(key: str) -> str:
    return loop(60)


@shared_task(bind=True, base=Keyed, lock_ttl=1)
def outlasts_its_ttl(self: Any, key: str) -> dict[str, Any]:
    return run(self, 3, None)


@shared_task(bind=True, base=Keyed, lock_ttl=2)
def dies(self: Any, key: str, gate: str | None = None) -> dict[str, Any]:
    return run(self, 0, gate)
