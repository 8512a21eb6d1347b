"""Deferring a run: its message is published again, unchanged but for its eta."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NoReturn

from celery import states
from celery.exceptions import Ignore
from celery.utils.log import get_logger

from celery_locks import _logging
from celery_locks.errors import LockError, LockTimeout, StoreUnavailable
from celery_locks.lock import describe_holders
from celery_locks.tasks import events
from celery_locks.tasks.messages.pack import pack, publish
from celery_locks.tasks.messages.rabbitmq import later_by
from celery_locks.tasks.policies.refused_run import RefusedRun

logger = _logging.logger(__name__)

#: A countdown is at most this share of the broker's timeout, after which the broker would send the message to another
#: worker as well (or, RabbitMQ, close the channel of this one), while this one still waits.
SAFE_SHARE = 0.5
#: What brokers with a visibility timeout take where none is set, and RabbitMQ its ``consumer_timeout``, in seconds.
TIMEOUTS = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}
TIMEOUTS |= dict.fromkeys(("amqp", "amqps", "pyamqp", "librabbitmq"), 1800)
#: How the message is published: again and again, since the message that brought this run is acknowledged already.
PATIENT = {"max_retries": None, "interval_start": 0.1, "interval_step": 0.5, "interval_max": 5.0}


class Deferred(Ignore):
    """The run has ended without its body, and its message comes again: it was deferred, parked, or is a copy.

    Celery would log of each that the task was "ignored". This library logs what happened to it.
    """

    def __repr__(self) -> str:
        return f"{_MARK}({self})"


_MARK = "celery_locks.Deferred"


class _NotIgnored(logging.Filter):
    """Leaves out Celery's line for a `Deferred`."""

    def filter(self, record: logging.LogRecord) -> bool:
        data = getattr(record, "data", None)
        return not (isinstance(data, Mapping) and str(data.get("exc", "")).startswith(_MARK))


get_logger("celery.app.trace").addFilter(_NotIgnored())


def defer(contention: RefusedRun, error: LockError) -> NoReturn:
    """Publish the message again, to come after the backoff's pause.

    Args:
        contention: The run that found its key held, or the store away.
        error: Why it can't run now.

    Raises:
        Deferred: It was published.
        LockTimeout: It has waited for ``max_wait``.
    """
    task, options = contention.task, contention.options
    pause = options.backoff.delay(contention.deferrals, longest_pause(task.app.conf))
    if options.max_wait is not None:
        if contention.waited >= options.max_wait:
            raise timed_out(contention, error)
        pause = min(pause, options.max_wait - contention.waited)
    # A counter of our own: ``request.retries`` is the user's.
    pause = publish_later(
        task,
        pause,
        lambda pause: {"deferrals": contention.deferrals + 1, "waited": contention.waited + pause},
        before=contention.keep_call,
    )
    _report(contention, error, pause)
    raise Deferred(f"it comes again in {pause:.3g} s: {error}")


def publish_later(task: Any, pause: float, fields: Any, before: Any = None, **policy: Any) -> float:
    """Publish the message of a task's present request once more.

    Args:
        task: The task.
        pause: In how many seconds it is to come.
        fields: Returns the fields for our header, given the pause that the broker can keep.
        before: Called with that pause before the message is published.
        **policy: Options of ``Producer.publish``.

    Returns:
        The pause that the broker can keep.
    """
    app = task.app
    pause, ladder = later_by(app, task.request.delivery_info, pause)
    eta = (app.now() + timedelta(seconds=pause)).isoformat()
    text = pack(task, fields(pause), eta=eta)
    if before is not None:
        before(pause)
    with app.producer_or_acquire() as producer:
        publish(producer, text, ladder, **{"retry": True, "retry_policy": PATIENT, **policy})
    return pause


def _report(contention: RefusedRun, error: LockError, pause: float) -> None:
    """Log that the run was deferred, once at INFO; store the state and send the event for monitors."""
    task, request = contention.task, contention.task.request
    said = f"Task {task.name}[{request.id}] deferred for {pause:.3g} s: {error}"
    level = logging.DEBUG if contention.deferrals else logging.INFO
    _logging.line(logger, level, "deferred", said, **contention.fields, seconds=round(pause, 3))
    if not (task.ignore_result or request.ignore_result):
        events.store_state(task, states.RETRY, lambda: task.backend.mark_as_retry(request.id, error, request=request))
    if events.enabled(task.app):
        events.retried(task, error)


def timed_out(contention: RefusedRun, error: LockError) -> LockTimeout:
    """Report that a run has waited for as long as it may, and return its error."""
    away = isinstance(error, StoreUnavailable)
    why = "the lock store could not be reached" if away else describe_holders(contention.holder_names)
    most = contention.options.max_wait
    within = "before the task expired" if most is None else f"within {most:g} s"
    return contention.lock._timed_out(contention.refused, f"{contention.key!r} was not acquired {within}: {why}")


def longest_pause(conf: Any) -> float | None:
    """Return the longest countdown in seconds that the broker keeps to, ``None`` for any."""
    options = conf.broker_transport_options or {}
    timeout = options.get("visibility_timeout", options.get("consumer_timeout"))
    if timeout is None:
        url = conf.broker_url or ""
        first = url[0] if isinstance(url, (list, tuple)) and url else url
        timeout = TIMEOUTS.get(str(first).partition(":")[0].partition("+")[0])
    return None if timeout is None else float(timeout) * SAFE_SHARE
