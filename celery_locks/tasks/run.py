"""A run of a locked task: it acquires its lease, runs the body under it, and releases it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery.exceptions import Ignore, Reject, Retry
from celery.signals import task_postrun, task_prerun

from celery_locks import _logging
from celery_locks._nesting import RunScope
from celery_locks.errors import LockError, LockTimeout, LossReason
from celery_locks.lease import Lease, kept_lease, release_kept_later, release_or_later
from celery_locks.stores.parking import tickets_of
from celery_locks.stores.types import Value
from celery_locks.tasks._celery_patches import calling_task, has_autoretry
from celery_locks.tasks.abort import guard_for, loss_error
from celery_locks.tasks.acquire import Entered, Entry
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.direct import dispatch_tickets
from celery_locks.tasks.messages.header import fields_of
from celery_locks.tasks.policies.deferral import Deferred
from celery_locks.tasks.retry import PostponedRetry, hand_to_retry, take_from_retry
from celery_locks.tasks.run_end import RunEnd, end_of
from celery_locks.tasks.spec import TaskLock, TaskWithLock
from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.revoke import finish_ticket_safely, settle_message_safely

logger = _logging.logger(__name__)

#: Celery's tasks that call another task for each of many arguments.
MAP_TASKS = ("celery.map", "celery.starmap")


@dataclass
class Run:
    """A run of a locked task.

    It begins before it acquires its lease, and ends after it has published its retries. It includes Celery's autoretry,
    which wraps the body.
    """

    task: TaskWithLock
    spec: TaskLock
    request: Any
    outer: Run | None
    #: How it acquires its lease; set when autoretry calls the body.
    entry: Entry | None = None
    #: The lease that the body sees.
    lease: Lease | None = None
    #: The lease whose loss stops the body.
    guard: Lease | None = None
    #: Retries of the body, published after the release so that they don't find the key held by this run.
    postponed: list[PostponedRetry] = field(default_factory=list)
    #: How it ended; ``None`` while that is unknown.
    end: RunEnd | None = None
    #: Whether it ended without its body, so that the ticket and the lease of its message are no longer needed.
    refused: bool = False
    #: Whether the ticket of its message is finished.
    _finished: bool = False

    def is_of(self, task: TaskWithLock) -> bool:
        """Return whether this is the run of the task's present request. A direct call in the body has a copy of it."""
        request = task.request
        same = request is self.request if request.id is None else request.id == self.request.id
        return self.task is task and same

    def bind_release(self, lease: Lease) -> Lease:
        """Make the release of a lease report how the run ended, and publish the tasks that it dispatches."""
        lease._release_in_store = self._release
        return lease

    def _release(self, lease: Lease, value: Value | None) -> bool:
        parking = tickets_of(lease._store)
        if parking is None:
            return lease._store.release(lease._claim.name, lease.token, value)
        app = self.task.app
        name, token = lease._claim.name, lease.token
        end = self.end or RunEnd.STORED  # the body released it and goes on: the ticket ends with the run
        released, dispatches = parking.end_run(name, token, end.value, broker=broker_id(app), value=value)
        is_final = self.end is RunEnd.FINAL
        self._finished |= is_final and self.entry is not None and lease.token == self.entry.ticket_token
        if dispatches:
            dispatch_tickets(app, lease._store_name, parking, dispatches)
        return released

    def close(self) -> bool:
        """Release the leases of the run. May be called again after an interrupt.

        Returns:
            Whether the run held its lease until now.
        """
        try:
            if self.guard is None:
                return True
            if self.entry is not None and self.postponed and self.spec.scope.run_adopts:
                pause = max(retry.pause for retry in self.postponed)
                return hand_to_retry(self.task, self.spec, self.entry.store, self.guard, pause)
            return release_or_later(self.guard)
        finally:
            self._release_claims()

    def _release_claims(self) -> None:
        # A signal such as a soft time limit may have interrupted this thread between the store's answer and the
        # assignment of the lease.
        for claim in self.entry.claims if self.entry is not None else ():
            unassigned = kept_lease(claim.token)
            if unassigned is not None:
                release_or_later(self.bind_release(unassigned))
            journal.remove_claim(claim.token)

    def settle(self) -> None:
        """Finish the ticket of the run's message, and release the lease of its call if the body did not run."""
        if self.end not in (RunEnd.FINAL, RunEnd.STORED):
            return
        if self.refused:
            settle_message_safely(self.task.app, self.request.headers, self.request.id)
        if self.entry is not None and self.entry.ticket and not self._finished:
            finish_ticket_safely(self.entry.locks, self.entry.key, self.entry.ticket, self.entry.ticket_token)


#: Runs that are open, or whose ticket ends when their result is stored, by the ``id()`` of their request.
_unsettled: dict[int, Run] = {}


@task_postrun.connect(weak=False, dispatch_uid="celery-locks-run")
def _after_result(sender: Any = None, **kwargs: Any) -> None:
    """Settle a run when Celery has stored its result, or when an interrupt kept the run from settling."""
    run = _unsettled.pop(id(sender.request), None) if _unsettled else None
    if run is None:
        return
    run.end = run.end or RunEnd.AGAIN
    run._release_claims()
    # Celery sends this signal in a ``finally``. If an error is being raised, the message is not acknowledged.
    if sys.exc_info()[0] is None:
        run.settle()


@task_prerun.connect(weak=False, dispatch_uid="celery-locks-no-lock")
def _before_run(sender: Any = None, **kwargs: Any) -> None:
    """Settle the message of a task that is no longer locked since a deploy: it may have a ticket or a call's lease."""
    if not hasattr(type(sender), "lock_options") and fields_of(sender.request):
        settle_message_safely(sender.app, sender.request.headers, sender.request.id)


_current: ContextVar[Run | None] = ContextVar("celery_locks_run", default=None)


def current_lease() -> Lease | None:
    """Return the lease under which the current task runs, ``None`` outside a locked task.

    The run releases it at the body's end. ``with current_lease():`` raises `LockError`, because the end of the block
    would release it while the body goes on.
    """
    run = _current.get()
    return None if run is None else run.lease


def run_of(task: TaskWithLock) -> Run | None:
    """Return the open run of this task and its present request, ``None`` if there is none."""
    run = _current.get()
    while run is not None and not run.is_of(task):
        run = run.outer
    return run


def run_locked(task: TaskWithLock, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the body of a task under its lease. A direct call runs it without one.

    Returns:
        The result of the body, or of the contention policy if the key is held.
    """
    run = run_of(task)
    if run is None:
        request = task.request
        if _takes_lease(task, request):
            return _open(task, request, lambda run: _begin(run, body, args, kwargs))
    elif run.entry is None:
        return _begin(run, body, args, kwargs)
    # A direct call, within a run or outside; or ``super().run()``, which is wrapped as well.
    return body(*args, **kwargs)


def run_with_autoretry(
    task: TaskWithLock, autoretry: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Open a run around Celery's autoretry, which calls `run_locked`: the retry is published within the run."""
    request = task.request
    if run_of(task) is None and _takes_lease(task, request):
        return _open(task, request, lambda run: autoretry(*args, **kwargs))
    return autoretry(*args, **kwargs)


def _takes_lease(task: TaskWithLock, request: Any) -> bool:
    """Return whether this call is a run: in a worker, eager, or an item of a map; not a direct call ``task(…)``."""
    if request.called_directly:
        return calling_task() in MAP_TASKS and task.locks_runs()
    header = fields_of(request)
    # The ticket and the lease of a message are settled also when locking is switched off.
    return "key" in header or bool(header.get("options", {}).get("enabled", task.locks_runs()))


def _open(task: TaskWithLock, request: Any, inner: Callable[[Run], Any]) -> Any:
    options = fields_of(request).get("options")
    spec = task.lock_spec.with_options_of_message(options) if options else task.lock_spec
    run = Run(task, spec, request, _current.get())
    _unsettled[id(request)] = run
    try:
        try:
            result, held = _run_and_close(run, inner)
        except BaseException:
            # A signal may have interrupted the closing of the run as well.
            for claim in run.entry.claims if run.entry is not None else ():
                release_kept_later(claim.token)
            raise
    except PostponedRetry as retry:
        raise (retry.published or retry).with_traceback(None) from None
    except (Ignore, Reject, Retry) as ending:
        # Celery would format the traceback, 2 ms a frame, and not log it.
        raise ending.with_traceback(None) from ending.__cause__
    _check_not_lost(run, held)
    return result


def _run_and_close(run: Run, inner: Callable[[Run], Any]) -> tuple[Any, bool]:
    """Return the result of a run, and whether it held its lease until its end."""
    outer = _current.set(run)
    try:
        result = inner(run)
        run.end = end_of(run.task, None)
    except _PastAutoretry as carried:
        run.end = _end_of(run, carried.error)
        raise carried.error from carried.error.__cause__
    except BaseException as error:
        run.end = _end_of(run, error)
        raise
    finally:
        _current.reset(outer)
        held = run.close()
        _publish(run)
        if run.end is not RunEnd.STORED or run.request.called_directly:
            _unsettled.pop(id(run.request), None)
            run.settle()
    return result, held


def _end_of(run: Run, error: BaseException) -> RunEnd:
    end = end_of(run.task, error)
    left_line = run.entry is not None and run.entry.left_line
    # A dead-letter queue may bring the message again, but its ticket has left the line, so the ticket ends here.
    return RunEnd.STORED if end is RunEnd.REJECTED and left_line and isinstance(error, LockTimeout) else end


def _begin(run: Run, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    task = run.task
    run.entry = Entry(task, run.spec, run.request, args, kwargs)
    entered = _enter(run, run.entry)
    if not isinstance(entered, Entered):
        return entered
    run.guard, run.lease = entered.guard, entered.lease
    if run.guard is None:
        return body(*args, **kwargs)
    run.guard._of_run = True
    run.guard.on_lost(lambda lease, reason: _call_on_lock_lost(task, lease, reason))
    call = partial(body, *args, **kwargs)
    with RunScope(run.guard):
        result = guard_for(run.guard).run(call) if run.spec.options.on_lost == "abort" else call()
    if not (run.postponed and run.spec.scope.run_adopts):
        run.end = end_of(task, None)
        _check_not_lost(run, release_or_later(run.guard))  # released here, so that autoretry sees a loss
        run.guard = None
    return result


def _enter(run: Run, entry: Entry) -> Any:
    try:
        result = entry.enter(run.bind_release)
    except (Deferred, Retry):  # the message comes again, unless its ticket left the line
        run.refused = entry.left_line
        raise
    except Reject:  # if a dead-letter queue brings the message again, its run acquires the key anew
        settle_message_safely(run.task.app, run.request.headers, run.request.id)
        raise
    except LockTimeout as error:
        run.refused = True
        if _retries_automatically(run.task):
            raise _PastAutoretry(error) from error
        raise
    except BaseException:
        run.refused = True
        raise
    run.refused = not isinstance(result, Entered)
    return result


class _PastAutoretry(Ignore):
    """Carries an error past Celery's autoretry, because ``max_wait`` is the longest wait over all attempts."""

    def __init__(self, error: LockTimeout) -> None:
        super().__init__(str(error))
        self.error = error


def _retries_automatically(task: TaskWithLock) -> bool:
    """Return whether autoretry wraps the body, and does not name errors of locks."""
    kinds = getattr(task, "autoretry_for", ()) or ()
    return has_autoretry(task) and not any(issubclass(kind, LockError) for kind in kinds)


def _check_not_lost(run: Run, held: bool) -> None:
    """Check that the run's lease was not lost. The body may have released it itself.

    Raises:
        LockLost: It was lost, and ``on_lost`` is ``"abort"``.
    """
    if held or run.guard is None or not run.guard.lost:
        return
    error = loss_error(run.guard)  # waits until all callbacks were called, also with ``on_lost="signal"``
    if run.spec.options.on_lost == "abort":
        run.end = end_of(run.task, error)
        raise error


def _publish(run: Run) -> None:
    try:
        for retry in run.postponed:
            retry.publish()
    except BaseException:
        run.end = RunEnd.REJECTED  # Celery rejects the message
        take_from_retry(run.task, run.spec)
        raise


def _call_on_lock_lost(task: TaskWithLock, lease: Lease, reason: LossReason) -> None:
    try:
        task.on_lock_lost(lease, reason)
    except Exception:
        logger.exception("%s.on_lock_lost raised", task.name)
