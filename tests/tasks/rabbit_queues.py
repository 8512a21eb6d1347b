"""Queues of RabbitMQ for a shop: of one kind, bound to exchanges of each type."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Exchange, Queue

#: The kinds of queues.
KINDS = ("classic", "quorum")
#: The queues that a shop's worker serves, by their names without the kind.
SERVED = ("plain", "orders", "urgent")


def orders(kind: str) -> Exchange:
    """A topic exchange of the user's own."""
    return Exchange(f"{kind}-orders", type="topic")


def use_queues(app: Celery, kind: str) -> None:
    """Gives an app queues of this kind. Nobody serves the default one: what is misrouted goes there, and never runs."""
    arguments: dict[str, Any] = {"x-queue-type": kind}
    if kind == "classic":
        arguments["x-max-priority"] = 9

    def queue(name: str, exchange: Exchange, routing_key: str, **more: str) -> Queue:
        return Queue(f"{kind}-{name}", exchange, routing_key=routing_key, queue_arguments={**arguments, **more})

    app.conf.task_queues = [
        queue("default", Exchange(f"{kind}-default", type="topic"), "default"),
        queue("plain", Exchange(f"{kind}-plain", type="topic"), "plain"),
        queue("orders", orders(kind), "orders.#"),
        queue(
            "urgent", Exchange(f"{kind}-urgent", type="direct"), "urgent", **{"x-dead-letter-exchange": f"{kind}-dead"}
        ),
        queue("dead", Exchange(f"{kind}-dead", type="direct"), "urgent"),
        queue("doomed", Exchange(f"{kind}-doomed", type="topic"), "doomed"),
    ]
    app.conf.task_default_queue = f"{kind}-default"
    app.conf.task_default_exchange = f"{kind}-default"
    app.conf.task_default_exchange_type = "topic"
    app.conf.task_default_routing_key = "default"


def declare_queues(app: Celery) -> None:
    """Has the broker make all queues of an app."""
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            queue.bind(connection.default_channel).declare()
