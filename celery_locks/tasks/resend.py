"""Sending the message of a contended run again, later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.exceptions import Retry

from celery_locks.errors import LockError, LockTimeout, StoreUnavailable
from celery_locks.lock import who_holds
from celery_locks.tasks.message import HEADER
from celery_locks.tasks.rabbitmq import later_by, without_deaths

if TYPE_CHECKING:
    from celery_locks.tasks.contention import Contention
    from celery_locks.tasks.task import LockedTask

#: A countdown is at most this share of the broker's timeout, after which the broker would send the message to another
#: worker as well (or, RabbitMQ, close the channel of this one), while this one still waits.
SAFE_SHARE = 0.5
#: What brokers with a visibility timeout take where none is set, and RabbitMQ its ``consumer_timeout``, in seconds.
TIMEOUTS = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}
TIMEOUTS |= dict.fromkeys(("amqp", "amqps", "pyamqp", "librabbitmq"), 1800)
#: How the message is sent: again and again, since the message that brought this run is acknowledged already.
PATIENT = {"max_retries": None, "interval_start": 0.1, "interval_step": 0.5, "interval_max": 5.0}


def send_again(contention: Contention, error: LockError) -> Any:
    """Sends the message again after the backoff's pause.

    Args:
        contention: The run that found its key held, or the store away.
        error: Why it can't run now.

    Raises:
        Retry: It was sent.
        LockTimeout: It has waited for as long as it may.
    """
    task, options = contention.task, contention.options
    pause = options.backoff.delay(contention.deferrals, longest_pause(task.app.conf))
    if options.max_wait is not None:
        if contention.waited >= options.max_wait:
            raise timed_out(contention, error)
        pause = min(pause, options.max_wait - contention.waited)
    pause, route = later_by(task.app, task.request.delivery_info, pause)
    # A counter of our own: ``request.retries`` is the user's.
    signature = later(task, pause, route, deferrals=contention.deferrals + 1, waited=contention.waited + pause)
    contention.keep_call(pause)
    signature.apply_async(retry=True, retry_policy=PATIENT)
    raise Retry(exc=error, when=pause, sig=signature)


def later(task: LockedTask, pause: float, route: Mapping[str, Any], **ours: Any) -> Any:
    """The signature that sends the message of a task's present request once more.

    Args:
        task: The task.
        pause: In how many seconds it is to come.
        route: Options that say where to.
        **ours: What to add to our own header.
    """
    headers = without_deaths(task.request.as_execution_options()["headers"])
    headers[HEADER] = {**(headers.get(HEADER) or {}), **ours}
    return task.signature_from_request(
        task.request, retries=task.request.retries, countdown=pause, headers=headers, **route
    )


def timed_out(contention: Contention, error: LockError) -> LockTimeout:
    """Report that a run has waited for as long as it may, and return its error."""
    away = isinstance(error, StoreUnavailable)
    why = "the lock store could not be reached" if away else who_holds(contention.holder_names)
    most = contention.options.max_wait
    within = "before the task expired" if most is None else f"within {most:g} s"
    return contention.lock.timed_out(contention.refused, f"{contention.key!r} was not to be had {within}: {why}")


def counter_of(request: Any) -> tuple[int, float]:
    """How often the message of a request was sent again, and the seconds that it waited so."""
    counter = _headers(request).get(HEADER) or {}
    return int(counter.get("deferrals", 0)), float(counter.get("waited", 0.0))


def forget_counter(request: Any) -> None:
    """Takes the counter out of a request whose run begins, so that the user's own retries start anew."""
    headers = _headers(request)
    if HEADER in headers:
        request.headers = {name: value for name, value in headers.items() if name != HEADER} or None


def _headers(request: Any) -> Mapping[str, Any]:
    """The message's own headers: an eager run may have been given anything."""
    headers = request.headers
    return headers if headers and isinstance(headers, Mapping) else {}


def longest_pause(conf: Any) -> float | None:
    """The longest countdown in seconds that the broker keeps to, ``None`` for any."""
    options = conf.broker_transport_options or {}
    timeout = options.get("visibility_timeout", options.get("consumer_timeout"))
    if timeout is None:
        url = conf.broker_url or ""
        first = url[0] if isinstance(url, (list, tuple)) and url else url
        timeout = TIMEOUTS.get(str(first).partition(":")[0].partition("+")[0])
    return None if timeout is None else float(timeout) * SAFE_SHARE
