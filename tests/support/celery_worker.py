"""Real Celery workers, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from celery_locks.testing.local import processes
from tests.support import start_celery
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """A ``celery worker``, ready when the constructor returns.

    Args:
        app: What ``celery -A`` takes.
        pool: Of Celery's: prefork, threads, solo, gevent, eventlet.
        concurrency: Processes, threads or greenlets of the pool.
        queues: Those it serves; Celery's default queue if not given.
        env: Variables beside those of the tests.
        cwd: Where it runs, and where it finds ``app``; the project's folder if not given.
        arguments: More of the command line.
        gossip: Whether it talks to other workers, which takes it a second more.
        timeout: Seconds within which it must be ready.
    """

    def __init__(
        self,
        app: str,
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
        self.folder = processes.make_folder()
        self.log_file = self.folder / "log"
        #: Its name to Celery; two on one machine must not share one.
        self.name = f"{self.folder.name}@localhost"
        argv = [
            sys.executable,
            start_celery.__file__,
            "-A",
            app,
            "worker",
            "--loglevel",
            "INFO",
            "--hostname",
            self.name,
        ]
        argv += ["--pool", pool, "--concurrency", str(concurrency)]
        argv += [] if gossip else ["--without-gossip", "--without-mingle"]  # mingling alone takes a second
        argv += ["--queues", ",".join(queues)] if queues else []
        with self.log_file.open("wb") as log:
            self._process = processes.start([*argv, *arguments], output=log, env=_environment(env, cwd), cwd=cwd)
        try:
            self.wait_for_log(f"{self.name} ready.", timeout)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its main process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def child_pids(self) -> list[int]:
        """Its pool's processes; empty for pools that have none."""
        return processes.children(self.pid) if self.running else []

    def log(self) -> str:
        """What it has logged and printed so far."""
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, text: str, timeout: float = 10) -> None:
        """Waits until its log holds this text.

        Raises:
            AssertionError: It did not log it, or ended without; says the end of the log.
        """
        with contextlib.suppress(AssertionError):
            eventually(lambda: text in self.log() or not self.running, timeout)
        assert text in self.log(), f"The worker did not log {text!r} within {timeout:g} s:\n{self.log()[-4000:]}"

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Sends a signal to the main process alone, and waits for nothing."""
        self._process.send_signal(sig)

    def wait(self, timeout: float = 10) -> int:
        """Waits until the main process has ended; returns its exit status."""
        return self._process.wait(timeout)

    def stop(self, timeout: float = 10, sig: int = signal.SIGTERM) -> int:
        """A warm shutdown: tasks that run are finished. After the timeout, SIGKILL for the whole group.

        Returns:
            The exit status; ``-9`` when it had to be killed.
        """
        return processes.end(self._process, grace=timeout, sig=sig)

    def close(self) -> None:
        """Kills what is left of it, and removes its log."""
        processes.end(self._process)
        processes.remove_folder(self.folder)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.log_file.exists():
            print(f"--- Log of {self.name}:\n{self.log()[-8000:]}", file=sys.stderr)  # pytest shows it with the failure
        self.close()


def _environment(extra: Mapping[str, str] | None, cwd: Path) -> dict[str, str]:
    paths = [str(cwd), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1", **(extra or {})}
