"""A real RabbitMQ: a local node of its own, ready in some 5 s."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from types import TracebackType

from pytest_celery import RabbitMQContainer, RabbitMQTestBroker

from celery_locks.testing.local import LocalEngine
from celery_locks.testing.local.executables import NodeFailed, rabbitmq_server
from tests.support import report


@functools.cache
def script() -> Path | None:
    """The script that starts the server; ``None``, and a word in the closing lines, where there is none."""
    try:
        return rabbitmq_server()
    except NodeFailed as error:
        report.could_not_have("RabbitMQ", f"its tests did NOT run: {error}")
        return None


class RabbitServer(RabbitMQTestBroker):
    """A broker of one's own, on 127.0.0.1.

    Raises:
        NodeFailed: It does not start. Shows its log.
    """

    def __init__(self) -> None:
        self._engine = LocalEngine()
        super().__init__(RabbitMQContainer(self._engine.containers.run(RabbitMQContainer.image())))
        # `rabbitmqctl version` would take longer than all else that a test asks of it.
        found = re.search(r"Starting RabbitMQ (\S+)", self.container.logs())
        report.ran_on(f"RabbitMQ {found[1] if found else '(of unknown version)'}")

    @property
    def url(self) -> str:
        """Its address, also outside pytest, where nothing replaces how pytest-docker-tools looks for ports."""
        (port,) = self.container.attrs["NetworkSettings"]["Ports"]["5672/tcp"]
        return f"amqp://guest:guest@127.0.0.1:{port['HostPort']}//"

    def ctl(self, *args: str) -> str:
        """What ``rabbitmqctl`` prints."""
        status, output = self.container.exec_run(["rabbitmqctl", "--quiet", *args])
        text: str = output.decode()
        assert status == 0, text
        return text

    def teardown(self) -> None:
        """Ends the server and its name server, and removes its data."""
        self._engine.close()

    def __enter__(self) -> RabbitServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.teardown()
