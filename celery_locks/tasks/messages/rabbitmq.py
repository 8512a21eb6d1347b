"""Native delayed delivery: RabbitMQ itself delays messages with a countdown.

If an app has a quorum queue, Celery publishes a message with a countdown to a chain of queues with a time to live each.
No worker waits for it. The chain knows whole seconds only. Celery derives the routing key from the queue that the
options name, or from the app's default queue. A message that is published again names no queue, so this module computes
the delay and the routing key from the message's own address.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from celery.utils.quorum_queues import detect_quorum_queues
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
    MAX_NUMBER_OF_BITS_TO_USE,
    calculate_routing_key,
    level_name,
)

#: The first exchange of a delayed message.
FIRST_DELAY_EXCHANGE = level_name(MAX_NUMBER_OF_BITS_TO_USE - 1)

#: The prefix of the routing key of a delayed message: its delay in seconds, in binary.
_DELAY_PREFIX = re.compile(rf"(?:[01]\.){{{MAX_NUMBER_OF_BITS_TO_USE}}}")
#: The exchanges for delayed messages. A delayed message is delivered with the name of the last one.
_DELAY_EXCHANGE = re.compile(r"celery_delayed_\d+|" + CELERY_DELAYED_DELIVERY_EXCHANGE)

#: Headers in which RabbitMQ lists the queues where a message expired. RabbitMQ drops a message that expires in the same
#: queue again, as a delayed message does.
_DEATH_HEADERS = re.compile(r"x-(?:death|(?:first|last)-death-.*)")


def without_deaths(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return headers without RabbitMQ's notes on expiry, which some releases of Celery leave in."""
    return {name: value for name, value in (headers or {}).items() if not _DEATH_HEADERS.fullmatch(name)}


def address_of(delivery_info: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the exchange and routing key that deliver a message to its original queue without a delay."""
    info = delivery_info or {}
    exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
    if _DELAY_EXCHANGE.fullmatch(exchange):
        return CELERY_DELAYED_DELIVERY_EXCHANGE, _DELAY_PREFIX.sub("", routing_key, count=1)
    return exchange, routing_key


def delayed_address(
    app: Any, delivery_info: Mapping[str, Any] | None, pause: float
) -> tuple[float, tuple[str, str] | None]:
    """Return the address that delivers a message to its original queue after a pause in seconds.

    Returns:
        The pause that the broker can keep, never a shorter one. Then the exchange and routing key for a delayed
        message, or ``None`` for the original address, if a worker waits until the time has come.
    """
    if not delays_natively(app):
        return pause, None
    exchange, routing_key = address_of(delivery_info)
    if exchange:
        is_delayed = bool(routing_key) and _type_of(app, exchange, routing_key) == "topic"
    else:  # the queue's own name
        queue = app.amqp.queues.get(routing_key)
        is_delayed = queue is not None and queue.exchange.type != "direct"
        if is_delayed:
            routing_key = queue.routing_key or routing_key
    seconds = math.ceil(pause)
    if not is_delayed or seconds < 1:
        return pause, None
    return seconds, (FIRST_DELAY_EXCHANGE, calculate_routing_key(seconds, routing_key))


def delays_natively(app: Any) -> bool:
    """Return whether Celery lets the broker delay messages."""
    transport = app.producer_pool.connections.connection.transport
    return bool(detect_quorum_queues(app, transport.driver_type)[0])


def _type_of(app: Any, exchange: str, routing_key: str) -> str:
    """Return the type of an exchange that a queue of the app is bound to; ``"direct"`` if there is none."""
    if exchange == CELERY_DELAYED_DELIVERY_EXCHANGE:
        return "topic"
    queues = app.amqp.queues
    if not exchange:
        return str(queues[routing_key].exchange.type) if routing_key in queues else "direct"
    for queue in queues.values():
        for bound in (queue.exchange, *(binding.exchange for binding in queue.bindings or ())):
            if bound is not None and bound.name == exchange:
                return str(bound.type)
    return "direct"
