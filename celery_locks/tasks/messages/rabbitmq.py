"""Messages that RabbitMQ keeps back until their time has come.

Where an app has a quorum queue, Celery (from 5.5) sends what has a countdown through a ladder of queues with a time to
live each ("native delayed delivery"), and not to a worker that waits for it. That ladder knows whole seconds only, and
Celery sends to it by the queue that the options name, else by the app's default queue: a message that is sent once more
names none. So these are given whole seconds, and a queue that stands for where they came from.
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

#: The exchange at which a message that is kept back begins.
FIRST_RUNG = level_name(MAX_NUMBER_OF_BITS_TO_USE - 1)

#: The seconds of a delay in binary, which stand before the routing key of a message that came by the ladder.
_DELAY = re.compile(rf"(?:[01]\.){{{MAX_NUMBER_OF_BITS_TO_USE}}}")
#: The exchanges of the ladder; a message that came by it names the one of its last rung.
_LADDER = re.compile(r"celery_delayed_\d+|" + CELERY_DELAYED_DELIVERY_EXCHANGE)

#: Headers in which RabbitMQ notes the queues that a message died in. One that is to die in the same queue again, as on
#: the ladder's lower rungs, it would take for going round in circles, and drop.
_DEATHS = re.compile(r"x-(?:death|(?:first|last)-death-.*)")


def without_deaths(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The headers with which a message is sent once more (some releases of Celery leave these in)."""
    return {name: value for name, value in (headers or {}).items() if not _DEATHS.fullmatch(name)}


def address_of(delivery_info: Mapping[str, Any] | None) -> tuple[str, str]:
    """Exchange and routing key by which a message comes again where it came from, and at once."""
    info = delivery_info or {}
    exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or ""
    if _LADDER.fullmatch(exchange):
        return CELERY_DELAYED_DELIVERY_EXCHANGE, _DELAY.sub("", routing_key, count=1)
    return exchange, routing_key


def later_by(app: Any, delivery_info: Mapping[str, Any] | None, pause: float) -> tuple[float, tuple[str, str] | None]:
    """Return how a message is published once more, to come to where it came from after a pause.

    Args:
        app: The app.
        delivery_info: The address that the message came by.
        pause: Seconds.

    Returns:
        The pause that the broker can keep, never a shorter one; and the exchange and routing key of the ladder, or
        ``None`` for those that the message came by, where a worker waits for the moment.
    """
    if not delays_natively(app):
        return pause, None
    exchange, routing_key = address_of(delivery_info)
    if exchange:
        kept_back = bool(routing_key) and _type_of(app, exchange, routing_key) == "topic"
    else:  # the queue's own name
        queue = app.amqp.queues.get(routing_key)
        kept_back = queue is not None and queue.exchange.type != "direct"
        if kept_back:
            routing_key = queue.routing_key or routing_key
    seconds = math.ceil(pause)
    if not kept_back or seconds < 1:
        return pause, None
    return seconds, (FIRST_RUNG, calculate_routing_key(seconds, routing_key))


def delays_natively(app: Any) -> bool:
    """Whether Celery leaves it to the broker to keep messages back."""
    transport = app.producer_pool.connections.connection.transport
    return bool(detect_quorum_queues(app, transport.driver_type)[0])


def _type_of(app: Any, exchange: str, routing_key: str) -> str:
    """The type of an exchange that a queue of the app is bound to; ``"direct"`` where there is none."""
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
