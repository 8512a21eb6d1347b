"""The one wrapper of ``run``: takes the lease, runs the body under it, gives it back."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack
from celery.exceptions import Ignore, Reject, Retry

from celery_locks import log
from celery_locks.errors import LossReason
from celery_locks.lease import Lease, release_or_later
from celery_locks.renewal import keeper
from celery_locks.tasks import records
from celery_locks.tasks.abort import guard_here, lost
from celery_locks.tasks.entry import Entered, Entry
from celery_locks.tasks.retry import PostponedRetry, hand_to_retry, take_from_retry
from celery_locks.tasks.revoked import give_back_safely

if TYPE_CHECKING:
    from celery_locks.tasks.task import LockedTask

logger = log.logger(__name__)

#: Celery's tasks that call another task for each of many arguments.
MAPS = ("celery.map", "celery.starmap")


@dataclass
class Run:
    """A run of a locked task.

    It is open before it takes its lease and until it has sent its retries: around Celery's autoretry, which is around
    the body.
    """

    task: LockedTask
    request: Any
    outer: Run | None
    #: What is asked of the store; set when the run begins.
    entry: Entry | None = None
    #: The lease that the body sees.
    lease: Lease | None = None
    #: The lease without which the body must not go on.
    guard: Lease | None = None
    #: Retries that the body asked for: sent when the lease is given back, or they would meet it.
    postponed: list[PostponedRetry] = field(default_factory=list)

    def is_of(self, task: LockedTask) -> bool:
        """Whether this is the run of the task's present request, of which a plain call within it has a copy."""
        request = task.request
        same = request is self.request if request.id is None else request.id == self.request.id
        return self.task is task and same


_current: ContextVar[Run | None] = ContextVar("celery_locks_run", default=None)


def current_lease() -> Lease | None:
    """Return the lease under which the current task runs, ``None`` outside a locked task.

    The run releases it at the body's end. ``with current_lease():`` raises `LockError`: the block's end would release
    it while the body goes on.
    """
    run = _current.get()
    return None if run is None else run.lease


def run_of(task: LockedTask) -> Run | None:
    """The run under way of this task and its present request, ``None`` when there is none."""
    run = _current.get()
    while run is not None and not run.is_of(task):
        run = run.outer
    return run


def run_locked(task: LockedTask, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs the body of a task under its lease; a plain call runs it without one.

    Returns:
        What the body returns, or what the contention policy makes of a key that is held.
    """
    run = run_of(task)
    if run is None:
        request = task.request
        if _takes_lease(task, request):
            return _open(task, request, lambda run: _begin(run, body, args, kwargs))
    elif run.entry is None:
        return _begin(run, body, args, kwargs)
    # A plain call within a run; `super().run()`, which is wrapped as well; or a plain call anywhere.
    return body(*args, **kwargs)


def run_around(task: LockedTask, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls what is around a body and comes to `run_locked` in the end: the run lasts until it is left."""
    request = task.request
    if run_of(task) is None and _takes_lease(task, request):
        return _open(task, request, lambda run: inner(*args, **kwargs))
    return inner(*args, **kwargs)


def _takes_lease(task: LockedTask, request: Any) -> bool:
    """Whether this call is a run: by a worker, eager, or as an item of a map; not a plain call ``task(…)``."""
    if not task.locks_runs():
        return False
    if request.called_directly:
        stack = _task_stack.stack
        return len(stack) > 1 and stack[-2].name in MAPS
    return True


def _open(task: LockedTask, request: Any, inner: Callable[[Run], Any]) -> Any:
    run = Run(task, request, _current.get())
    entered = _current.set(run)
    try:
        try:
            result = inner(run)
        finally:
            _current.reset(entered)
            held = _close(run)
            _publish(run)
    except PostponedRetry as retry:
        raise (retry.published or retry).with_traceback(None) from None
    except (Ignore, Reject, Retry) as ending:
        # Celery formats the traceback of each, though nobody sees it: that takes 2 ms a frame.
        raise ending.with_traceback(None) from ending.__cause__
    _check(run, held)
    return result


def _begin(run: Run, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    task = run.task
    run.entry = Entry(task, run.request, args, kwargs)
    entered = _enter(run, run.entry)
    if not isinstance(entered, Entered):
        return entered
    run.guard, run.lease = entered.guard, entered.lease
    if run.guard is None:
        return body(*args, **kwargs)
    run.guard.of_run = True
    run.guard.on_lost(lambda lease, reason: _tell(task, lease, reason))
    called = partial(body, *args, **kwargs)
    result = guard_here(run.guard).run(called) if _aborts(task) else called()
    if not (run.postponed and task.lock_in_scope.to_the_end):
        _check(run, release_or_later(run.guard))  # here, so that autoretry sees a loss
        run.guard = None
    return result


def _enter(run: Run, entry: Entry) -> Any:
    try:
        result = entry.enter()
    except (Ignore, Retry):  # the message comes once more
        raise
    except BaseException:
        give_back_safely(run.task.app, run.request.headers, run.request.id)
        raise
    if not isinstance(result, Entered):
        give_back_safely(run.task.app, run.request.headers, run.request.id)
    return result


def _close(run: Run) -> bool:
    """Gives back what the run has. Returns whether it held its lease until now."""
    try:
        if run.guard is None:
            return True
        if run.postponed and run.task.lock_in_scope.to_the_end:
            return hand_to_retry(run.task, run.guard, max(retry.pause for retry in run.postponed))
        return release_or_later(run.guard)
    finally:
        # A signal (a soft time limit) may have struck between the store's yes and the line that took note of it.
        for claim in run.entry.claims if run.entry is not None else ():
            forgotten = keeper().kept(claim.token)
            if forgotten is not None:
                release_or_later(forgotten)
            records.strike(claim.token)


def _check(run: Run, held: bool) -> None:
    """Raises `LockLost` where the run's lease was lost; not where the body gave it back itself."""
    if held or run.guard is None or not run.guard.lost:
        return
    error = lost(run.guard)  # waits for those who are being told, also where they are all that happens
    if _aborts(run.task):
        raise error


def _publish(run: Run) -> None:
    try:
        for retry in run.postponed:
            retry.publish()
    except BaseException:
        take_from_retry(run.task)
        raise


def _aborts(task: LockedTask) -> bool:
    return task.lock_options.on_lost == "abort"


def _tell(task: LockedTask, lease: Lease, reason: LossReason) -> None:
    try:
        task.on_lock_lost(lease, reason)
    except Exception:
        logger.exception("%s.on_lock_lost raised", task.name)
