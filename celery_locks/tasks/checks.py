"""What a worker warns of when it starts: settings that break what its tasks' locks promise, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from celery_locks.stores.base import Store
from celery_locks.tasks.contention import Retry, Wait
from celery_locks.tasks.options import is_celerys_own
from celery_locks.tasks.park import SAFETY_COPY, Park
from celery_locks.tasks.resend import SAFE_SHARE, longest_pause

if TYPE_CHECKING:
    from celery_locks.tasks.task import LockedTask


def locked_tasks(app: Any) -> list[LockedTask]:
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


def parks(task: LockedTask) -> bool:
    """Whether runs of a task park where their key is held."""
    return isinstance(task.lock_run_policy, Park)


def warnings(app: Any, store: Store, tasks: Iterable[LockedTask]) -> list[str]:
    """What to warn of.

    Raises:
        StoreUnavailable: The store can't be asked.
    """
    tasks = list(tasks)
    return [*store.warnings(parks=any(map(parks, tasks))), *of_visibility(app.conf, tasks)]


def of_visibility(conf: Any, tasks: list[LockedTask]) -> list[str]:
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


def _pause(task: LockedTask) -> float:
    """The longest countdown, in seconds, that a task's message is given by us."""
    options = task.lock_options
    if parks(task):
        copy = options.park_safety_copy
        return SAFETY_COPY if copy is True else float(copy)
    return options.backoff.cap if isinstance(task.lock_run_policy, Retry) else 0.0


def _wait(task: LockedTask) -> float:
    """For how long, in seconds, a run may wait while its message is not acknowledged."""
    options = task.lock_options
    if not (isinstance(task.lock_run_policy, Wait) and task.acks_late):
        return 0.0
    return float("inf") if options.max_wait is None else options.max_wait
