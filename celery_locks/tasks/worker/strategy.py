"""What a worker's main process does with a message of a locked task before its pool gets it (``Task.Strategy``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.strategy import default

from celery_locks import _logging
from celery_locks.tasks.messages.header import HEADER
from celery_locks.tasks.spec import TaskWithLock
from celery_locks.tasks.worker.early_parking import early_parking

logger = _logging.logger(__name__)


def strategy(task: TaskWithLock, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return the handler of a task's messages in a worker's main process."""
    handle: Callable[..., Any] = default(task, app, consumer, **options)
    early = early_parking(task, app, consumer)

    def on_message(message: Any, body: Any, ack: Any, reject: Any, *others: Any, **options: Any) -> Any:
        headers = message.headers
        if HEADER in headers and _is_to_be_rejected(headers):
            return reject(logger, consumer.connection_errors)
        if early is None or body is not None:
            return handle(message, body, ack, reject, *others, **options)

        def give_to_pool() -> Any:
            return handle(message, body, ack, reject, *others, **options)

        return early.handle(message, lambda: ack(logger, consumer.connection_errors), give_to_pool)

    return on_message


def _is_to_be_rejected(headers: Mapping[str, Any]) -> bool:
    """Return whether a message was published to be rejected, and not dead-lettered since."""
    header = headers[HEADER]
    return isinstance(header, Mapping) and bool(header.get("rejected")) and "x-death" not in headers
