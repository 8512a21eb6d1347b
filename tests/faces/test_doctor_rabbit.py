"""What ``celery locks doctor`` finds of RabbitMQ."""

from __future__ import annotations

import os
import re

import pytest
from amqp.exceptions import AccessRefused
from celery import Celery
from kombu import Exchange, Queue

from celery_locks import LockedTask
from tests.support.celery_worker import Worker
from tests.support.cli import found, make_app, nothing
from tests.support.rabbitmq import RabbitServer
from tests.support.waiting import eventually

SOON = 60.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.usefixtures("no_shared_tasks")]


def test_rabbitmq(redis_url: str, rabbit_server: RabbitServer) -> None:
    items = found(make_app(redis_url, broker_url=rabbit_server.url), 1)
    assert items["messages"][0]["status"] == "ok"
    assert "no worker answers" in items["consumers"][0]["text"]
    assert "doctor" not in rabbit_server.ctl("eval", "{rabbit_amqqueue:list_names(), rabbit_exchange:list_names()}.")
    user = f"limited{os.urandom(4).hex()}"
    rabbit_server.ctl("add_user", user, "secret")
    rabbit_server.ctl("set_permissions", user, "", "", "")
    url = rabbit_server.url.replace("guest:guest", f"{user}:secret")
    shop = Exchange("shop", type="topic")
    queues = [Queue("mails", shop, routing_key="mail.#"), Queue("c++", Exchange("c++")), Queue("celery")]
    app = Celery("watched", broker=url, set_as_current=False)
    app.conf.update(
        locks_url=redis_url, result_backend="rpc://", task_queues=queues, task_routes={"short": {"queue": "mails"}}
    )
    task = app.task(nothing, name="short", base=LockedTask, shared=False, lock_key="<key>")
    items = found(app, 2)
    assert items["messages"][0]["status"] == "error"
    configure, write, read = re.search(r"USER '(.*)' '(.*)' '(.*)'", items["messages"][0]["text"]).groups()  # type: ignore[union-attr]
    assert not any(re.match(pattern, name) for pattern in (configure, write, read) for name in ("", "of-others", "ccc"))
    rabbit_server.ctl("set_permissions", user, configure, write, read)
    items = found(app, 1)
    assert items["messages"][0]["status"] == "ok"
    assert "no worker answers" in items["consumers"][0]["text"]
    with app.connection_for_write() as connection:
        for queue in queues:
            queue(connection).declare()
        with pytest.raises(AccessRefused):
            Queue("of-others")(connection).declare()
    settings = '{"result_backend": "rpc://"}'
    variables = {"WATCHED_URL": redis_url, "WATCHED_BROKER": url, "WATCHED_SETTINGS": settings}
    with Worker(
        "tests.faces.telemetry_app", env=variables, queues=["celery", "c++"], arguments=["-E"], gossip=True, timeout=90
    ) as worker:
        task.apply_async(("k",), queue="c++").get(timeout=SOON)
        assert "ACCESS_REFUSED" not in worker.logs()
        task.apply_async(("k",), routing_key="mail.new", exchange=shop)
    with app.connection_for_write() as connection:
        eventually(lambda: queues[0](connection).get(no_ack=True) is not None, SOON)


def test_rabbitmq_that_blocks_publishers(redis_url: str, rabbit_server: RabbitServer) -> None:
    rabbit_server.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        items = found(make_app(redis_url, broker_url=rabbit_server.url), 2)
    finally:
        rabbit_server.ctl("set_vm_memory_high_watermark", "0.6")
    assert "rabbitmqctl status names the alarm" in items["messages"][0]["text"]
    eventually(lambda: "doctor" not in rabbit_server.ctl("list_queues", "name"), SOON)
