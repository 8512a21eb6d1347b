"""Celery events of parked tasks, for Flower and other monitors: ``task-waiting`` when one parks, ``task-running`` when
its turn has come. A task's state is then WAITING, and RUNNING (Celery keeps a state that it doesn't know until a task
ends or the next such state comes, so its own ``task-started`` would not show)."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from typing import Any

from celery import bootsteps

from celery_locks import _logging
from celery_locks.tasks.messages.header import fields_of

logger = _logging.logger(__name__)

# Whether task events are on can change at any time, and only the worker's parent knows: a byte that its children share.
_enabled = mmap.mmap(-1, 1)
#: Seconds between two looks of the parent.
LOOK_EVERY = 1.0


class TaskEventsStep(bootsteps.StartStopStep):
    """Watches in the worker's parent whether task events are on."""

    requires = ("celery.worker.consumer.events:Events",)
    name = "celery-locks-events"

    def start(self, consumer: Any) -> None:
        """Called when the worker has connected."""

        def look() -> None:
            dispatcher = consumer.event_dispatcher
            groups = dispatcher.groups if dispatcher is not None else ("none",)
            _enabled[0] = bool(dispatcher is not None and dispatcher.enabled and (not groups or "task" in groups))

        look()
        self._timer = consumer.timer.call_repeatedly(LOOK_EVERY, look)

    def stop(self, consumer: Any) -> None:
        """Called when the connection is lost or the worker stops."""
        self._timer.cancel()


def enabled(app: Any) -> bool:
    """Whether this worker sends task events now."""
    return bool(_enabled[0] or app.conf.worker_send_task_events)


def waiting(task: Any, meta: Mapping[str, Any]) -> None:
    """Report that the task's present request was parked."""
    _send(task, "task-waiting", **meta)


def running(task: Any) -> None:
    """Report that the turn of the task's present request has come, if it was parked."""
    if enabled(task.app) and "ticket" in fields_of(task.request):
        _send(task, "task-running")


def retried(task: Any, error: BaseException) -> None:
    """Report that the task's present request was deferred, as Celery reports a retry."""
    _send(task, "task-retried", exception=repr(error), traceback="")


def store_state(task: Any, state: str, store: Callable[[], object]) -> None:
    """Store the state of the task's present request. An error is logged: a state is not worth a task.

    Args:
        task: The task.
        state: The state.
        store: Stores it.
    """
    try:
        store()
    except Exception as error:
        logger.warning("the state %s of %s[%s] was not stored: %s", state, task.name, task.request.id, error)


def _send(task: Any, kind: str, **fields: Any) -> None:
    try:
        task.send_event(kind, retry=False, **fields)
    except Exception as error:  # an event is never worth a task
        logger.warning("no event %s for %s[%s]: %s", kind, task.name, task.request.id, error)
