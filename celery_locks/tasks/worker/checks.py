"""What a worker warns of when it starts: settings that break what its tasks' locks promise, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from celery_locks.errors import LockConfigError
from celery_locks.locks import Locks
from celery_locks.stores.base import Store
from celery_locks.tasks.options import is_celerys_own
from celery_locks.tasks.policies.basic import Park, Retry, Wait
from celery_locks.tasks.policies.deferral import SAFE_SHARE, longest_pause
from celery_locks.tasks.policies.park import SAFETY_COPY
from celery_locks.tasks.spec import TaskWithLock


def locked_tasks(app: Any) -> list[TaskWithLock]:
    """The tasks of an app whose runs are locked.

    Raises:
        LockConfigError: A setting of one is wrong.
    """
    others = (task for name, task in app.tasks.items() if not is_celerys_own(name))
    with_options = (task for task in others if getattr(task, "lock_options", None) is not None)
    return [task for task in with_options if task.locks_runs()]


def locked_names(app: Any) -> list[str]:
    """Return the names of the app's locked tasks at this moment. A wrong setting raises nothing here."""
    # A copy, for another thread may be adding one.
    return [name for name, task in list(app.tasks.items()) if hasattr(type(task), "lock_options") and task.locks_runs()]


def check_start(worker: Any, stores: Mapping[str, Locks]) -> None:
    """Check that the tasks of a worker that starts are locked.

    Raises:
        LockConfigError: One can't be, or each process of the pool would have locks of its own.
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
    """Return how many processes run a worker's tasks at most."""
    pool = worker.pool_cls
    if not (isinstance(pool, type) and issubclass(pool, _process_pool())):
        return 1
    autoscale = getattr(worker, "autoscale", None) or ""
    most = autoscale.split(",")[0] if isinstance(autoscale, str) else next(iter(autoscale), 0)
    return max(int(worker.concurrency or 0), int(most or 0))


def _process_pool() -> type:
    from celery.concurrency.prefork import TaskPool  # imports billiard, which only workers need

    pool: type = TaskPool
    return pool


def parks(task: TaskWithLock) -> bool:
    """Whether runs of a task park where their key is held."""
    return isinstance(task.lock_spec.run_policy, Park)


def warnings(app: Any, store: Store, tasks: Iterable[TaskWithLock]) -> list[str]:
    """What to warn of.

    Raises:
        StoreUnavailable: The store can't be asked.
    """
    tasks = list(tasks)
    return [*store.warnings(parks=any(map(parks, tasks))), *of_visibility(app.conf, tasks)]


def of_visibility(conf: Any, tasks: list[TaskWithLock]) -> list[str]:
    """What to warn of where a broker delivers a message again while a worker still has it."""
    longest = longest_pause(conf)
    if longest is None:
        return []
    pause, who = max(((_pause(task), task.name) for task in tasks), default=(0.0, ""))
    wait, waiter = max(((_wait(task), task.name) for task in tasks), default=(0.0, ""))
    found, timeout = [], longest / SAFE_SHARE
    if pause > longest:
        found.append(
            f"the broker's visibility_timeout of {timeout:g} s is too short for the pauses of {pause:g} s of {who}: "
            f"they are cut to {longest:g} s. Set it in broker_transport_options to {pause / SAFE_SHARE:g} or more, or "
            "lower the backoff's cap"
        )
    if wait > timeout:
        how_long = "ever" if wait == float("inf") else f"{wait:g} s"
        found.append(
            f"{waiter} may wait in its slot for {how_long}, with acks_late, and the broker's visibility_timeout is "
            f"{timeout:g} s: meanwhile its message is delivered again. Set lock_max_wait below it, or raise "
            "visibility_timeout in broker_transport_options"
        )
    return found


def _pause(task: TaskWithLock) -> float:
    """The longest countdown, in seconds, that a task's message is given by us."""
    options = task.lock_options
    if parks(task):
        copy = options.park_safety_copy
        return SAFETY_COPY if copy is True else float(copy)
    return options.backoff.cap if isinstance(task.lock_spec.run_policy, Retry) else 0.0


def _wait(task: TaskWithLock) -> float:
    """For how long, in seconds, a run may wait while its message is not acknowledged."""
    options = task.lock_options
    if not (isinstance(task.lock_spec.run_policy, Wait) and task.acks_late):
        return 0.0
    return float("inf") if options.max_wait is None else options.max_wait
