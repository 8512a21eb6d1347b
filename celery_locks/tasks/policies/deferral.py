"""Deferral of a run: its message is published again with another eta, and otherwise unchanged."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, NoReturn

from celery import states
from celery.exceptions import Ignore

from celery_locks import _logging
from celery_locks.errors import LockError, LockTimeout, StoreUnavailable
from celery_locks.lock import describe_holders
from celery_locks.tasks import events
from celery_locks.tasks._celery_patches import install_log_filter
from celery_locks.tasks.messages.pack import pack, publish
from celery_locks.tasks.messages.rabbitmq import delayed_address
from celery_locks.tasks.policies.refused_run import RefusedRun

logger = _logging.logger(__name__)

#: The longest countdown, as a share of the broker's timeout. After the timeout the broker delivers a message to another
#: worker as well, while the first one still waits. RabbitMQ closes the worker's channel instead.
SAFE_SHARE_OF_TIMEOUT = 0.5
#: The default visibility timeouts of brokers, and the ``consumer_timeout`` of RabbitMQ, in seconds.
BROKER_TIMEOUT_SECONDS = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}
BROKER_TIMEOUT_SECONDS |= dict.fromkeys(("amqp", "amqps", "pyamqp", "librabbitmq"), 1800)
#: Publish until it succeeds, because the message of this run may be acknowledged already.
RETRY_FOREVER = {"max_retries": None, "interval_start": 0.1, "interval_step": 0.5, "interval_max": 5.0}


class Deferred(Ignore):
    """The run has ended without its body, and its message comes again: it was deferred, parked, or is a copy.

    Celery's log line "ignored" is left out, because this library logs what happened.
    """

    def __repr__(self) -> str:
        return f"{_LOG_MARK}({self})"


_LOG_MARK = "celery_locks.Deferred"
install_log_filter(_LOG_MARK)


def defer(contention: RefusedRun, error: LockError) -> NoReturn:
    """Publish the message of a run that can't run now, because of an error. It is run after the backoff's pause.

    Raises:
        Deferred: The message was published.
        LockTimeout: The run has waited for ``max_wait``.
    """
    task, options = contention.task, contention.options
    pause = options.backoff.delay(contention.deferrals, longest_pause(task.app.conf))
    if options.max_wait is not None:
        if contention.waited >= options.max_wait:
            raise timed_out(contention, error)
        pause = min(pause, options.max_wait - contention.waited)
    # Our own counter, because ``request.retries`` is the user's.
    pause = publish_later(
        task,
        pause,
        lambda pause: {"deferrals": contention.deferrals + 1, "waited": contention.waited + pause},
        before=contention.keep_call,
    )
    _report(contention, error, pause)
    raise Deferred(f"deferred for {pause:.3g} s: {error}")


def publish_later(task: Any, pause: float, fields: Any, before: Any = None, **policy: Any) -> float:
    """Publish the message of a task's present request again.

    Args:
        task: The task.
        pause: Seconds until it is to be run.
        fields: Returns the fields for our header, given the pause that the broker can keep.
        before: Called with that pause before the message is published.
        **policy: Options of ``Producer.publish``.

    Returns:
        The pause that the broker can keep.
    """
    app = task.app
    pause, address = delayed_address(app, task.request.delivery_info, pause)
    eta = (app.now() + timedelta(seconds=pause)).isoformat()
    text = pack(task, fields(pause), eta=eta)
    if before is not None:
        before(pause)
    with app.producer_or_acquire() as producer:
        publish(producer, text, address, **{"retry": True, "retry_policy": RETRY_FOREVER, **policy})
    return pause


def _report(contention: RefusedRun, error: LockError, pause: float) -> None:
    """Log that the run was deferred, the first time at INFO. Store the state and send the event for monitors."""
    task, request = contention.task, contention.task.request
    text = f"Task {task.name}[{request.id}] deferred for {pause:.3g} s: {error}"
    level = logging.DEBUG if contention.deferrals else logging.INFO
    _logging.line(logger, level, "deferred", text, **contention.fields, seconds=round(pause, 3))
    if not (task.ignore_result or request.ignore_result):
        events.store_state(task, states.RETRY, lambda: task.backend.mark_as_retry(request.id, error, request=request))
    if events.are_enabled(task.app):
        events.send(task, "task-retried", exception=repr(error), traceback="")  # as Celery reports a retry


def timed_out(contention: RefusedRun, error: LockError) -> LockTimeout:
    """Report that a run has reached ``max_wait`` or expired, and return its error."""
    is_away = isinstance(error, StoreUnavailable)
    why = "the lock store could not be reached" if is_away else describe_holders(contention.holder_names)
    max_wait = contention.options.max_wait
    within = "before the task expired" if max_wait is None else f"within {max_wait:g} s"
    return contention.lock._timed_out(contention.refused, f"{contention.key!r} was not acquired {within}: {why}")


def longest_pause(conf: Any) -> float | None:
    """Return the longest countdown in seconds that the broker can keep, ``None`` for any."""
    options = conf.broker_transport_options or {}
    timeout = options.get("visibility_timeout", options.get("consumer_timeout"))
    if timeout is None:
        url = conf.broker_url or ""
        first = url[0] if isinstance(url, (list, tuple)) and url else url
        timeout = BROKER_TIMEOUT_SECONDS.get(str(first).partition(":")[0].partition("+")[0])
    return None if timeout is None else float(timeout) * SAFE_SHARE_OF_TIMEOUT
