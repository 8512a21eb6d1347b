"""The queue of a message, by the address that it came by."""

from __future__ import annotations

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding

from celery_locks.tasks.messages.queues import queue_of


@pytest.fixture(scope="module")
def app() -> Celery:
    made = Celery("queues", broker="memory://", set_as_current=False)
    several = [binding(Exchange("many", "topic"), routing_key=key) for key in ("x.*", "y")]
    made.conf.task_queues = [
        Queue("celery"),
        Queue("feed_tasks", Exchange("feed", "topic"), routing_key="feed.#"),
        Queue("everyone", Exchange("news", "fanout")),
        Queue("left", Exchange("both", "fanout")),
        Queue("right", Exchange("both", "fanout")),
        Queue("direct_tasks", Exchange("direct"), routing_key="key"),
        Queue("bound", bindings=several),
        Queue("by_headers", Exchange("headers", "headers"), routing_key="key"),
    ]
    return made


@pytest.mark.parametrize(
    ("exchange", "routing_key", "queue"),
    [
        ("", "celery", "celery"),
        ("", "made by an option of a call", "made by an option of a call"),
        ("feed", "feed.import.daily", "feed_tasks"),
        ("feed", "other", None),
        ("news", "any", "everyone"),
        ("both", "any", None),
        ("direct", "key", "direct_tasks"),
        ("direct", "other", None),
        ("many", "x.1", "bound"),
        ("many", "y", "bound"),
        ("many", "x.1.2", None),
        ("headers", "key", None),
        ("of another app", "key", None),
    ],
)
def test_the_queue_of_an_address(app: Celery, exchange: str, routing_key: str, queue: str | None) -> None:
    assert queue_of(app, {"exchange": exchange, "routing_key": routing_key}) == queue


def test_by_celerys_defaults() -> None:
    app = Celery("queues", broker="memory://", set_as_current=False)
    assert queue_of(app, {"exchange": "celery", "routing_key": "celery"}) == "celery"
