"""The one wrapper of ``run``: takes the lease, runs the body under it, gives it back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack

from celery_locks.errors import LossReason, StoreUnavailable
from celery_locks.lease import Lease
from celery_locks.lock import Lock, release_or_later
from celery_locks.renewal import keeper
from celery_locks.stores.base import Claim
from celery_locks.tasks.abort import run_abortable
from celery_locks.tasks.contention import Contention
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.park import Park
from celery_locks.tasks.policies import policy
from celery_locks.tasks.resend import forget_counter, send_again
from celery_locks.tasks.retry import PostponedRetry
from celery_locks.tasks.sending import send_on

if TYPE_CHECKING:
    from celery_locks.tasks.task import LockedTask

logger = logging.getLogger(__name__)

#: Celery's tasks that call another task for each of many arguments.
MAPS = ("celery.map", "celery.starmap")


@dataclass
class Run:
    """A run of a locked task under its lease."""

    task: LockedTask
    request_id: str | None
    lease: Lease
    outer: Run | None
    #: Retries that the body asked for: sent when the lease is given back, or they would meet it.
    postponed: list[PostponedRetry] = field(default_factory=list)


_current: ContextVar[Run | None] = ContextVar("celery_locks_run", default=None)


def current_lease() -> Lease | None:
    """The lease under which the current task runs, ``None`` outside a locked task."""
    run = _current.get()
    return None if run is None else run.lease


def run_of(task: LockedTask) -> Run | None:
    """The run under way of this task and its present request, ``None`` when there is none."""
    run = _current.get()
    while run is not None and not (run.task is task and run.request_id == task.request.id):
        run = run.outer
    return run


def run_locked(task: LockedTask, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs the body of a task under its lease; a plain call runs it without one.

    Returns:
        What the body returns, or what the contention policy makes of a key that is held.
    """
    request = task.request
    if not _takes_lease(task, request):
        return body(*args, **kwargs)
    owner = f"{task.name}[{request.id}] on {request.hostname}" if request.id else f"{task.name} of a map"
    lock = Lock(locks_for(task.app), task.lock_key_for(*args, **kwargs), task.lock_terms, owner, sender=task)
    claim = lock.claim()
    try:
        lease = _acquire(task, lock, claim, args, kwargs)
        return _hold(task, request, lease, lambda: body(*args, **kwargs)) if isinstance(lease, Lease) else lease
    finally:
        # A signal (a soft time limit) may have struck between the store's yes and the first line of `_hold`.
        forgotten = keeper().kept(claim.token)
        if forgotten is not None:
            release_or_later(forgotten)


def _takes_lease(task: LockedTask, request: Any) -> bool:
    """Whether this call is a run: by a worker, eager, or as an item of a map; not a plain call ``task(…)``."""
    if not task.locks_runs():
        return False
    if request.called_directly:
        stack = _task_stack.stack
        return len(stack) > 1 and stack[-2].name in MAPS
    # A plain call within a run copies its request; so does `super().run()`, which is wrapped as well.
    return run_of(task) is None


def _acquire(task: LockedTask, lock: Lock, claim: Claim, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The lease, or else what the policy returns."""
    contention = Contention(task, lock, claim, task.lock_options, args, kwargs)
    chosen = policy(contention.options.on_contention)
    try:
        if isinstance(chosen, Park) and not contention.local:
            return chosen.enter(contention)
        answer = lock.attempt(claim)
        if isinstance(answer, Lease):
            return answer
        contention.refused = answer
        return chosen.contended(contention)
    except StoreUnavailable as error:
        if contention.local:
            raise
        return send_again(contention, error)


def _hold(task: LockedTask, request: Any, lease: Lease, body: Callable[[], Any]) -> Any:
    run = Run(task, request.id, lease, _current.get())
    forget_counter(request)
    lease.on_lost(lambda lease, reason: _tell(task, lease, reason))
    lease.send_on = partial(send_on, task.app)
    aborts = task.lock_options.on_lost == "abort"
    entered = _current.set(run)
    try:
        try:
            result = run_abortable(lease, body) if aborts else body()
        finally:
            _current.reset(entered)
            held = release_or_later(lease)
            for retry in run.postponed:
                retry.publish()
    except PostponedRetry as retry:
        raise retry.published or retry from None
    if aborts and not held and lease.lost:  # not where the body gave it back itself
        raise lease.lost_error()
    return result


def _tell(task: LockedTask, lease: Lease, reason: LossReason) -> None:
    try:
        task.on_lock_lost(lease, reason)
    except Exception:
        logger.exception("%s.on_lock_lost raised", task.name)
