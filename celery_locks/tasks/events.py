"""Celery events of parked and deferred tasks, for Flower and other monitors.

``task-waiting`` reports that a task was parked, ``task-running`` that its turn has come. The task's state is WAITING,
then RUNNING. Celery's own ``task-started`` would not change the state: Celery keeps an unknown state until the task
ends, or until the next unknown state.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

from celery import bootsteps

from celery_locks import _logging
from celery_locks.tasks.messages.header import fields_of

logger = _logging.logger(__name__)

# Shared by the pool's processes: task events can be enabled at any time, and only the worker's main process knows.
_enabled = mmap.mmap(-1, 1)
#: Seconds between two checks of the main process.
CHECK_INTERVAL_SECONDS = 1.0


class TaskEventsStep(bootsteps.StartStopStep):
    """Watches in the worker's main process whether task events are enabled."""

    requires = ("celery.worker.consumer.events:Events",)
    name = "celery-locks-events"

    def start(self, consumer: Any) -> None:
        """Begin to watch, when the worker has connected."""

        def check() -> None:
            dispatcher = consumer.event_dispatcher
            groups = dispatcher.groups if dispatcher is not None else ("none",)
            _enabled[0] = bool(dispatcher is not None and dispatcher.enabled and (not groups or "task" in groups))

        check()
        self._timer = consumer.timer.call_repeatedly(CHECK_INTERVAL_SECONDS, check)

    def stop(self, consumer: Any) -> None:
        """Stop watching, when the connection is lost or the worker stops."""
        self._timer.cancel()


def are_enabled(app: Any) -> bool:
    """Return whether this worker sends task events now."""
    return bool(_enabled[0] or app.conf.worker_send_task_events)


def send_running(task: Any) -> None:
    """Report that the turn of the task's present request has come, if it was parked."""
    if are_enabled(task.app) and "ticket" in fields_of(task.request):
        send(task, "task-running")


def send(task: Any, kind: str, **fields: Any) -> None:
    """Send an event about the task's present request. An error is logged, and the task goes on."""
    try:
        task.send_event(kind, retry=False, **fields)
    except Exception as error:
        logger.warning("the event %s was not sent for %s[%s]: %s", kind, task.name, task.request.id, error)


def store_state(task: Any, state: str, store: Callable[[], object]) -> None:
    """Store the state of the task's present request, by ``store()``. An error is logged, and the task goes on."""
    try:
        store()
    except Exception as error:
        logger.warning("the state %s of %s[%s] was not stored: %s", state, task.name, task.request.id, error)
