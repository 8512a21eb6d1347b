"""The checks of a worker at its start: problems of its settings, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from celery_locks.errors import LockConfigError
from celery_locks.locks import Locks
from celery_locks.stores.base import Store
from celery_locks.tasks.options import is_celerys_own
from celery_locks.tasks.policies.basic import POLICIES
from celery_locks.tasks.policies.deferral import SAFE_SHARE_OF_TIMEOUT, longest_pause
from celery_locks.tasks.policies.park import SAFETY_COPY_SECONDS
from celery_locks.tasks.spec import TaskWithLock


def locked_tasks(app: Any) -> list[TaskWithLock]:
    """Return the tasks of an app whose runs are locked.

    Raises:
        LockConfigError: A setting of a task is wrong.
    """
    others = (task for name, task in app.tasks.items() if not is_celerys_own(name))
    with_options = (task for task in others if getattr(task, "lock_options", None) is not None)
    return [task for task in with_options if task.locks_runs()]


def locked_names(app: Any) -> list[str]:
    """Return the names of the app's locked tasks. Wrong settings are not checked."""
    # A copy, because another thread may be adding a task.
    return [name for name, task in list(app.tasks.items()) if hasattr(type(task), "lock_options") and task.locks_runs()]


def check_start(worker: Any, stores: Mapping[str, Locks]) -> None:
    """Check that the tasks of a worker that starts are locked.

    Raises:
        LockConfigError: A task can't be locked, or each process of the pool would have its own locks.
    """
    locked = locked_tasks(worker.app)
    for locks in stores.values() if locked else ():  # a call may choose any of them
        if not locks.store.shared and _processes(worker) > 1:
            raise LockConfigError(
                f"the store {locks.url} is in the memory of one process, and the pool has {_processes(worker)}, so "
                f"nothing would be locked ({locked[0].name}): set locks_url to a store that processes share, such as "
                "sqlite:////path, or use --pool=threads or --pool=solo"
            )


def _processes(worker: Any) -> int:
    """Return the largest number of processes that run a worker's tasks."""
    pool = worker.pool_cls
    from celery.concurrency.prefork import TaskPool  # imports billiard, which only workers need

    if not (isinstance(pool, type) and issubclass(pool, TaskPool)):
        return 1
    autoscale = getattr(worker, "autoscale", None) or ""
    largest = autoscale.split(",")[0] if isinstance(autoscale, str) else next(iter(autoscale), 0)
    return max(int(worker.concurrency or 0), int(largest or 0))


def parks(task: TaskWithLock) -> bool:
    """Return whether runs of a task park if their key is held."""
    return task.lock_spec.run_policy is POLICIES["park"]


def warnings(app: Any, store: Store, tasks: Iterable[TaskWithLock]) -> list[str]:
    """Return warnings about a store and the broker, as far as they concern these tasks.

    Raises:
        StoreUnavailable: The store can't be reached.
    """
    tasks = list(tasks)
    return [*store.warnings(parks=any(map(parks, tasks))), *visibility_warnings(app.conf, tasks)]


def visibility_warnings(conf: Any, tasks: list[TaskWithLock]) -> list[str]:
    """Return warnings about a broker that delivers a message again while a worker still has it."""
    longest = longest_pause(conf)
    if longest is None:
        return []
    pause, who = max(((_pause(task), task.name) for task in tasks), default=(0.0, ""))
    wait, waiter = max(((_wait(task), task.name) for task in tasks), default=(0.0, ""))
    found, timeout = [], longest / SAFE_SHARE_OF_TIMEOUT
    if pause > longest:
        needed = pause / SAFE_SHARE_OF_TIMEOUT
        found.append(
            f"the broker's visibility_timeout of {timeout:g} s is too short for the pauses of {pause:g} s of {who}: "
            f"they are cut to {longest:g} s. Set it in broker_transport_options to {needed:g} or more, or "
            "lower the backoff's cap"
        )
    if wait > timeout:
        duration = "an unlimited time" if wait == float("inf") else f"{wait:g} s"
        found.append(
            f"{waiter} may wait in its slot for {duration}, with acks_late, and the broker's visibility_timeout is "
            f"{timeout:g} s: meanwhile its message is delivered again. Set lock_max_wait below it, or raise "
            "visibility_timeout in broker_transport_options"
        )
    return found


def _pause(task: TaskWithLock) -> float:
    """Return the longest countdown, in seconds, of messages that this library publishes for a task."""
    options = task.lock_options
    if parks(task):
        copy = options.park_safety_copy
        return SAFETY_COPY_SECONDS if copy is True else float(copy)
    return options.backoff.cap if task.lock_spec.run_policy is POLICIES["retry"] else 0.0


def _wait(task: TaskWithLock) -> float:
    """Return how long, in seconds, a run may wait while its message is not acknowledged."""
    options = task.lock_options
    if not (task.lock_spec.run_policy is POLICIES["wait"] and task.acks_late):
        return 0.0
    return float("inf") if options.max_wait is None else options.max_wait
