"""The one wrapper of ``run``: it acquires the lease, runs the body under it, and releases it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from celery._state import _task_stack
from celery.exceptions import Ignore, Reject, Retry
from celery.signals import task_postrun, task_prerun

from celery_locks import _logging
from celery_locks._nesting import RunScope
from celery_locks.errors import LockError, LockTimeout, LossReason
from celery_locks.lease import Lease, kept_lease, release_kept_later, release_or_later
from celery_locks.stores.parking import tickets_of
from celery_locks.stores.types import Value
from celery_locks.tasks.abort import guard_here, lost
from celery_locks.tasks.acquire import Entered, Entry
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.header import fields_of
from celery_locks.tasks.messages.publish import publish_dispatched
from celery_locks.tasks.policies.deferral import Deferred
from celery_locks.tasks.retry import PostponedRetry, hand_to_retry, take_from_retry
from celery_locks.tasks.run_end import RunEnd, end_of
from celery_locks.tasks.spec import TaskLock, TaskWithLock
from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.revoke import finish_safely, settle_message_safely

logger = _logging.logger(__name__)

#: Celery's tasks that call another task for each of many arguments.
MAPS = ("celery.map", "celery.starmap")


@dataclass
class Run:
    """A run of a locked task.

    It is open before it acquires its lease and until it has published its retries: around Celery's autoretry, which is
    around the body.
    """

    task: TaskWithLock
    spec: TaskLock
    request: Any
    outer: Run | None
    #: What is asked of the store; set when the run begins.
    entry: Entry | None = None
    #: The lease that the body sees.
    lease: Lease | None = None
    #: The lease without which the body must not go on.
    guard: Lease | None = None
    #: Retries that the body asked for: published when the lease is released, or they would meet it.
    postponed: list[PostponedRetry] = field(default_factory=list)
    #: How it ended; ``None`` until that is known.
    end: RunEnd | None = None
    #: Whether it ended without its body, so that nothing of its message is needed any more.
    refused: bool = False
    #: Whether the ticket of its message is done.
    _finished: bool = False

    def is_of(self, task: TaskWithLock) -> bool:
        """Whether this is the run of the task's present request, of which a plain call within it has a copy."""
        request = task.request
        same = request is self.request if request.id is None else request.id == self.request.id
        return self.task is task and same

    def bind_release(self, lease: Lease) -> Lease:
        """Have the release of a lease state how the run ended, and publish the tasks whose turn comes by it."""
        lease._release_in_store = self._release
        return lease

    def _release(self, lease: Lease, value: Value | None) -> bool:
        parking = tickets_of(lease._store)
        if parking is None:
            return lease._store.release(lease._claim.name, lease.token, value)
        app = self.task.app
        name, token = lease._claim.name, lease.token
        end = self.end or RunEnd.STORED  # the body goes on without the key: the ticket ends with the run
        released, dispatches = parking.end_run(name, token, end.value, broker=broker_id(app), value=value)
        is_final = self.end is RunEnd.FINAL
        self._finished |= is_final and self.entry is not None and lease.token == self.entry.ticket_token
        if dispatches:
            publish_dispatched(app, parking, dispatches)
        return released

    def close(self) -> bool:
        """Release what the run has. May be called again after it was interrupted.

        Returns:
            Whether it held its lease until now.
        """
        try:
            if self.guard is None:
                return True
            if self.postponed and self.spec.scope.to_the_end:
                return self._hand_to_retry(self.guard)
            return release_or_later(self.guard)
        finally:
            self._release_claims()

    def _hand_to_retry(self, lease: Lease) -> bool:
        assert self.entry is not None
        pause = max(retry.pause for retry in self.postponed)
        return hand_to_retry(self.task, self.spec, self.entry.store, lease, pause)

    def _release_claims(self) -> None:
        # A signal (a soft time limit) may have struck between the store's yes and the line that took note of it.
        for claim in self.entry.claims if self.entry is not None else ():
            forgotten = kept_lease(claim.token)
            if forgotten is not None:
                release_or_later(self.bind_release(forgotten))
            journal.strike(claim.token)

    def settle(self) -> None:
        """End the ticket of the run's message, and the lease of its call where the body did not run."""
        if self.end not in (RunEnd.FINAL, RunEnd.STORED):
            return
        if self.refused:
            settle_message_safely(self.task.app, self.request.headers, self.request.id)
        if self.entry is not None and self.entry.ticket and not self._finished:
            finish_safely(self.entry.locks, self.entry.key, self.entry.ticket, self.entry.ticket_token)


#: Runs that are open, or whose ticket ends when their result is stored, by the id of their request.
_unsettled: dict[int, Run] = {}


@task_postrun.connect(weak=False, dispatch_uid="celery-locks-run")
def _after_result(sender: Any = None, **kwargs: Any) -> None:
    """Celery has stored the result: settle what the run left for now, or what an interrupt made it leave."""
    run = _unsettled.pop(id(sender.request), None) if _unsettled else None
    if run is None:
        return
    run.end = run.end or RunEnd.AGAIN
    run._release_claims()
    # Celery sends this in a ``finally``: an error on its way means that nothing is acknowledged.
    if sys.exc_info()[0] is None:
        run.settle()


@task_prerun.connect(weak=False, dispatch_uid="celery-locks-no-lock")
def _before_run(sender: Any = None, **kwargs: Any) -> None:
    """Settle the message of a task that a deploy made one without a lock: it may have a ticket, or a call's lease."""
    if not hasattr(type(sender), "lock_options") and fields_of(sender.request):
        settle_message_safely(sender.app, sender.request.headers, sender.request.id)


_current: ContextVar[Run | None] = ContextVar("celery_locks_run", default=None)


def current_lease() -> Lease | None:
    """Return the lease under which the current task runs, ``None`` outside a locked task.

    The run releases it at the body's end. ``with current_lease():`` raises `LockError`: the block's end would release
    it while the body goes on.
    """
    run = _current.get()
    return None if run is None else run.lease


def run_of(task: TaskWithLock) -> Run | None:
    """The run under way of this task and its present request, ``None`` when there is none."""
    run = _current.get()
    while run is not None and not run.is_of(task):
        run = run.outer
    return run


def run_locked(task: TaskWithLock, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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


def run_around(task: TaskWithLock, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls what is around a body and comes to `run_locked` in the end: the run lasts until it is left."""
    request = task.request
    if run_of(task) is None and _takes_lease(task, request):
        return _open(task, request, lambda run: inner(*args, **kwargs))
    return inner(*args, **kwargs)


def _takes_lease(task: TaskWithLock, request: Any) -> bool:
    """Whether this call is a run: by a worker, eager, or as an item of a map; not a plain call ``task(…)``."""
    if request.called_directly:
        stack = _task_stack.stack
        return len(stack) > 1 and stack[-2].name in MAPS and task.locks_runs()
    ours = fields_of(request)
    # With locking off, what a message brings is settled all the same: a lease of its call, a ticket.
    return "key" in ours or bool(ours.get("options", {}).get("enabled", task.locks_runs()))


def _open(task: TaskWithLock, request: Any, inner: Callable[[Run], Any]) -> Any:
    run = Run(task, _spec_of(task, request), request, _current.get())
    _unsettled[id(request)] = run
    try:
        try:
            result, held = _run_and_close(run, inner)
        except BaseException:
            # A signal may have struck while the run was closed, too: what is still renewed is released all the same.
            for claim in run.entry.claims if run.entry is not None else ():
                release_kept_later(claim.token)
            raise
    except PostponedRetry as retry:
        raise (retry.published or retry).with_traceback(None) from None
    except (Ignore, Reject, Retry) as ending:
        # Celery formats the traceback of each, though it shows none: that takes 2 ms a frame.
        raise ending.with_traceback(None) from ending.__cause__
    _check(run, held)
    return result


def _run_and_close(run: Run, inner: Callable[[Run], Any]) -> tuple[Any, bool]:
    """Return the result of a run, and whether it held its lease until its end."""
    entered = _current.set(run)
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
        _current.reset(entered)
        held = run.close()
        _publish(run)
        if run.end is not RunEnd.STORED or run.request.called_directly:
            _unsettled.pop(id(run.request), None)
            run.settle()
    return result, held


def _end_of(run: Run, error: BaseException) -> RunEnd:
    end = end_of(run.task, error)
    out = run.entry is not None and run.entry.out
    # Though its message may come again, from a dead-letter queue: the ticket left the line, and no wait follows.
    return RunEnd.STORED if end is RunEnd.REJECTED and out and isinstance(error, LockTimeout) else end


def _spec_of(task: TaskWithLock, request: Any) -> TaskLock:
    """The task's lock, with the options of this call."""
    options = fields_of(request).get("options")
    return task.lock_spec.with_options_of_message(options) if options else task.lock_spec


def _begin(run: Run, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    task = run.task
    run.entry = Entry(task, run.spec, run.request, args, kwargs, run.bind_release)
    entered = _enter(run, run.entry)
    if not isinstance(entered, Entered):
        return entered
    run.guard, run.lease = entered.guard, entered.lease
    if run.guard is None:
        return body(*args, **kwargs)
    run.guard._of_run = True
    run.guard.on_lost(lambda lease, reason: _tell(task, lease, reason))
    called = partial(body, *args, **kwargs)
    with RunScope(run.guard):
        result = guard_here(run.guard).run(called) if _aborts(run) else called()
    if not (run.postponed and run.spec.scope.to_the_end):
        run.end = end_of(task, None)
        _check(run, release_or_later(run.guard))  # here, so that autoretry sees a loss
        run.guard = None
    return result


def _enter(run: Run, entry: Entry) -> Any:
    try:
        result = entry.enter()
    except (Deferred, Retry):  # the message comes once more, unless its ticket left the line
        run.refused = entry.out
        raise
    except Reject:  # a dead-letter queue may lead back, to a call that holds nothing
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
    """Carries an error past Celery's autoretry: ``max_wait`` is the longest wait over all attempts."""

    def __init__(self, error: LockTimeout) -> None:
        super().__init__(str(error))
        self.error = error


def _retries_automatically(task: TaskWithLock) -> bool:
    """Whether autoretry is around the body, and was not asked to retry errors of locks."""
    asked = getattr(task, "autoretry_for", ()) or ()
    return "_orig_run" in vars(task) and not any(issubclass(kind, LockError) for kind in asked)


def _check(run: Run, held: bool) -> None:
    """Raise `LockLost` where the run's lease was lost; not where the body released it itself."""
    if held or run.guard is None or not run.guard.lost:
        return
    error = lost(run.guard)  # waits until all callbacks have been called, also where they are all that happens
    if _aborts(run):
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


def _aborts(run: Run) -> bool:
    return run.spec.options.on_lost == "abort"


def _tell(task: TaskWithLock, lease: Lease, reason: LossReason) -> None:
    try:
        task.on_lock_lost(lease, reason)
    except Exception:
        logger.exception("%s.on_lock_lost raised", task.name)
