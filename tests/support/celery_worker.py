"""Real Celery workers: pytest-celery's nodes over processes of this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_celery import DEFAULT_WORKER_LOG_LEVEL, RESULT_TIMEOUT, CeleryWorkerContainer
from pytest_docker_tools.exceptions import TimeoutError as LogMissing

from celery_locks.testing.local import LocalEngine, processes
from celery_locks.testing.local.fixtures import LocalWorker
from tests.support import start_celery
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


class WorkerContainer(CeleryWorkerContainer):
    """A worker of any app, on Celery's default queue unless its arguments name others."""

    @classmethod
    def command(cls, *args: str, app: str = "app", **_: Any) -> list[str]:
        celery = ["python", start_celery.__file__, "-A", app, "worker", "--loglevel", DEFAULT_WORKER_LOG_LEVEL]
        return [*celery, "--hostname", f"{cls.worker_name()}@%h", *args]

    @classmethod
    def worker_queue(cls) -> str:
        return "celery"

    def logs(self) -> str:
        text: str = self._container.logs().decode(errors="replace")  # the process may be in the middle of a character
        return text

    def stop(self, timeout: float) -> None:
        """Stop it by a warm shutdown. After the timeout, by SIGKILL for all its processes."""
        self._container.stop(timeout)

    def wait(self, timeout: float) -> int:
        """Wait until the main process has ended, and return its exit status as Docker does: 137 for SIGKILL."""
        return int(self._container.wait(timeout)["StatusCode"])

    def teardown(self) -> None:
        self._container.remove(force=True)


class Worker(LocalWorker):
    """A ``celery worker``, ready when the constructor returns.

    Args:
        module: What ``celery -A`` takes.
        app: The tests' app, for the node.
        pool: Of Celery's: prefork, threads, solo, gevent, eventlet.
        concurrency: Processes, threads or greenlets of the pool.
        queues: Those it serves; Celery's default queue if not given.
        env: Variables added to those of the tests.
        cwd: Where it runs, and where it finds ``module``; the project's folder if not given.
        arguments: More of the command line.
        gossip: Whether it talks to other workers, which takes it a second more.
        timeout: Seconds within which it must be ready.

    Raises:
        NodeFailed: It does not start. Shows its log.
    """

    container: WorkerContainer
    _pid = 0

    def __init__(
        self,
        module: str,
        app: Any = None,
        *,
        pool: str = "prefork",
        concurrency: int = 2,
        queues: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        arguments: Sequence[str] = (),
        gossip: bool = False,
        timeout: float = 30,
    ) -> None:
        options = ["--pool", pool, "--concurrency", str(concurrency)]
        options += [] if gossip else ["--without-gossip", "--without-mingle"]  # mingling alone takes a second
        options += ["--queues", ",".join(queues)] if queues else []
        process = LocalEngine().containers.create(
            "celery",
            WorkerContainer.command(*options, *arguments, app=module),
            environment={"PYTHONUNBUFFERED": "1", **(env or {})},
            working_dir=str(cwd),
        )
        process.program.start_timeout = timeout
        super().__init__(WorkerContainer(process), app)
        try:
            process.start()
        except BaseException:
            self.teardown()
            raise
        self._pid = self.pid

    @property
    def pid(self) -> int:
        """Its main process, or the last one that it had."""
        self._pid = self.container.attrs["State"]["Pid"] or self._pid
        return self._pid

    def child_pids(self) -> list[int]:
        """Return its pool's processes; none for pools that have none."""
        return processes.children(self.pid) if self.container.status == "running" else []

    def wait_for_log(self, log: str, message: str = "", timeout: float = RESULT_TIMEOUT) -> None:
        """Wait for a log, at a hundred looks a second in place of one, and no longer than the worker lives.

        Raises:
            LogMissing: It was not logged. Shows the end of the log.
        """
        with suppress(AssertionError):
            eventually(lambda: log in self.logs() or self.container.status == "exited", timeout)
        if log not in (logged := self.logs()):
            message = message or f"{self.hostname()} did not log {log!r} within {timeout:g} s"
            raise LogMissing(f"{message}. The end of its log:\n{logged[-4000:]}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"--- Log of {self.hostname()}:\n{self.logs()[-8000:]}", file=sys.stderr)  # shown with the failure
        self.teardown()
