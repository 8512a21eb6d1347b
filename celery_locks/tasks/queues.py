"""The queues of messages, by their addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_locks.tasks.rabbitmq import address_of


def queue_of(app: Any, delivery_info: Mapping[str, Any] | None) -> str:
    """Return the name of the queue that a message came by, as far as the app's settings tell.

    Messages carry no queue. Where no queue of the app is bound to their exchange by their routing key, the routing key
    is the best name there is: Celery makes missing queues of that name.
    """
    exchange, routing_key = address_of(delivery_info)
    queue = bound_queue(app, exchange, routing_key) if exchange else None
    return routing_key if queue is None else str(queue.name)


def bound_queue(app: Any, exchange: str, routing_key: str) -> Any | None:
    """Return the app's queue that is bound to an exchange by this routing key, ``None`` when there is none."""
    for queue in app.amqp.queues.values():
        if queue.exchange.name == exchange and queue.routing_key == routing_key:
            return queue
    return None
