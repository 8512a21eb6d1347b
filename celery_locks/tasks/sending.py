"""Sends on the messages of called tickets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery_locks import log
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.parking import Call, Parking, due_again
from celery_locks.tasks.message import publish

logger = log.logger(__name__)

#: Setting: for how many seconds a key is kept for a task that was sent on, before it is sent once more.
CALL_TTL = "locks_call_ttl"
DEFAULT_CALL_TTL = 60.0


def send_on(app: Any, parking: Parking, calls: Iterable[Call], connection: Any = None) -> None:
    """Sends the messages of calls to the broker, and confirms each to the store.

    What can't be sent is left to the sweeper: this raises nothing but what stops the thread.

    Args:
        app: The app whose broker gets them.
        parking: The store that called.
        calls: The calls.
        connection: A broker connection of the caller's own; else one of the app's pool.
    """
    for call in calls:
        try:
            _send(app, connection, call.message)
        except Exception as error:  # whatever the broker's client raises
            logger.warning("a parked task of %s could not be sent on (%s): the sweeper tries again", call.name, error)
            continue
        try:
            parking.sent(call, due_again(call.calls, call_ttl(app.conf)))
        except StoreUnavailable as error:
            logger.warning("%s; a parked task may be sent on twice, and runs once", error)


def call_ttl(conf: Any) -> float:
    """The setting `CALL_TTL`, in seconds."""
    return float(conf.get(CALL_TTL, DEFAULT_CALL_TTL))


def _send(app: Any, connection: Any, message: str) -> None:
    if connection is not None:
        with app.amqp.Producer(connection) as producer:
            publish(producer, message)
        return
    with app.producer_or_acquire() as producer:
        publish(producer, message, retry=True, retry_policy={"max_retries": 1, "interval_start": 0})
