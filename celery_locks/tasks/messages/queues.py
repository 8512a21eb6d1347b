"""The queue of a message, by its address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES

from celery_locks.tasks.messages.rabbitmq import address_of


def queue_of(app: Any, delivery_info: Mapping[str, Any] | None) -> str | None:
    """Return the name of the queue that delivered a message, ``None`` if the app's settings don't show it.

    Messages carry an address and no queue. The address without an exchange is the queue's name.
    """
    exchange, routing_key = address_of(delivery_info)
    if not exchange:
        return routing_key
    queues = bound_queues(app, exchange, routing_key)
    return str(queues[0].name) if len(queues) == 1 else None


def bound_queues(app: Any, exchange: str, routing_key: str) -> list[Any]:
    """Return the app's queues that get messages of an exchange with this routing key."""
    return [
        queue
        for queue in app.amqp.queues.values()
        if any(_reaches(bound, exchange, routing_key) for bound in (queue, *(queue.bindings or ())))
    ]


def _reaches(bound: Any, exchange: str, routing_key: str) -> bool:
    if bound.exchange is None or bound.exchange.name != exchange or bound.exchange.type not in STANDARD_EXCHANGE_TYPES:
        return False
    kind: Any = STANDARD_EXCHANGE_TYPES[bound.exchange.type]
    rules = kind(None)
    table = [rules.prepare_bind("", exchange, bound.routing_key or "", {})]
    return bool(rules.lookup(table, exchange, routing_key, None))
