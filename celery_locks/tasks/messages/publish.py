"""Publishing the messages of dispatched tickets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery_locks import _logging
from celery_locks._durations import seconds_of
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.parking import Dispatch, Parking, due_again
from celery_locks.tasks.app_settings import CALL_TTL, DEFAULT_CALL_TTL
from celery_locks.tasks.messages.pack import publish_first

logger = _logging.logger(__name__)


def publish_dispatched(app: Any, parking: Parking, dispatches: Iterable[Dispatch], connection: Any = None) -> None:
    """Publish the messages of dispatched tickets, and confirm each to the store.

    The sweeper tries again to publish messages that can't be published now. No error of the broker or store is raised.

    Args:
        app: The app whose broker gets the messages.
        parking: The store that dispatched them.
        dispatches: The tickets.
        connection: A connection to the broker; by default one of the app's pool.
    """
    for dispatch in dispatches:
        try:
            _publish(app, connection, dispatch)
        except Exception as error:  # any error of the broker's client
            logger.warning(
                "a parked task of %s could not be published (%s): the sweeper tries again", dispatch.name, error
            )
            continue
        try:
            parking.published(dispatch, due_again(dispatch.count, call_ttl(app.conf)))
        except StoreUnavailable as error:
            logger.warning("%s; a parked task may be published twice, and runs once", error)


def call_ttl(conf: Any) -> float:
    """Return the setting `CALL_TTL`, in seconds."""
    return seconds_of(CALL_TTL, conf.get(CALL_TTL, DEFAULT_CALL_TTL))


def _publish(app: Any, connection: Any, dispatch: Dispatch) -> None:
    if connection is not None:
        with app.amqp.Producer(connection) as producer:
            publish_first(producer, dispatch.message, dispatch.count)
        return
    with app.producer_or_acquire() as producer:
        retry_once = {"max_retries": 1, "interval_start": 0}
        publish_first(producer, dispatch.message, dispatch.count, retry=True, retry_policy=retry_once)
