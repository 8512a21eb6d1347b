"""What ``celery locks doctor`` finds of RabbitMQ."""

from __future__ import annotations

import os
import re

import pytest

from tests.support.cli import found, make_app
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
    items = found(make_app(redis_url, broker_url=url), 2)
    assert items["messages"][0]["status"] == "error"
    configure, write, read = re.search(r"USER '(.*)' '(.*)' '(.*)'", items["messages"][0]["text"]).groups()  # type: ignore[union-attr]
    rabbit_server.ctl("set_permissions", user, configure, write, read)
    items = found(make_app(redis_url, broker_url=url), 1)
    assert items["messages"][0]["status"] == "ok"
    assert "no worker answers" in items["consumers"][0]["text"]


def test_rabbitmq_that_blocks_publishers(redis_url: str, rabbit_server: RabbitServer) -> None:
    rabbit_server.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        items = found(make_app(redis_url, broker_url=rabbit_server.url), 2)
    finally:
        rabbit_server.ctl("set_vm_memory_high_watermark", "0.6")
    assert "rabbitmqctl status names the alarm" in items["messages"][0]["text"]
    eventually(lambda: "doctor" not in rabbit_server.ctl("list_queues", "name"), SOON)
