"""A real RabbitMQ: a local node of its own, ready in some 5 s."""

from __future__ import annotations

import functools
from pathlib import Path
from types import TracebackType

from celery_locks.testing.local import Container, LocalEngine
from celery_locks.testing.local.programs import NodeFailed, rabbitmq_server
from tests.support import report


@functools.cache
def script() -> Path | None:
    """The script that starts the server; ``None``, and a word in the closing lines, where there is none."""
    try:
        return rabbitmq_server()
    except NodeFailed as error:
        report.could_not_have("RabbitMQ", f"its tests did NOT run: {error}")
        return None


class RabbitServer:
    """A server of one's own, on 127.0.0.1."""

    def __init__(self) -> None:
        self.container: Container = LocalEngine().containers.create("rabbitmq")

    @property
    def url(self) -> str:
        """Its address."""
        return f"amqp://guest:guest@127.0.0.1:{self.container.program.port}//"

    def start(self) -> RabbitServer:
        """Starts the server and waits until it serves.

        Raises:
            NodeFailed: It does not start; says what it logged.
        """
        self.container.start()
        report.ran_on(f"RabbitMQ {self.ctl('version').strip()}")
        return self

    def ctl(self, *args: str) -> str:
        """What ``rabbitmqctl`` prints."""
        program = rabbitmq_server().with_name("rabbitmqctl")
        status, output = self.container.exec_run([str(program), "--quiet", *args])
        text: str = output.decode()
        assert status == 0, text
        return text

    def close(self) -> None:
        """Ends the server and its name server, and removes its data."""
        self.container.remove(force=True)

    def __enter__(self) -> RabbitServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
