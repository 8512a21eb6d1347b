"""The workers of a run, which are killed, stopped and replaced."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.chaos.history import History
from tests.support.celery_worker import Worker

#: Seconds that a worker gets to end when it is told to; much, for a machine that is busy.
GRACE = 60.0


@dataclass(frozen=True)
class Post:
    """A place that always has a worker, or gets a new one soon."""

    name: str
    options: Mapping[str, Any]
    env: Mapping[str, str]


class Fleet:
    """A worker for each post.

    Args:
        posts: The posts.
        history: Is told before a process is killed.
        env: Variables of all workers.
        logs: The folder that gets the logs of workers that have ended.
        module: The app's module.
    """

    def __init__(
        self,
        posts: list[Post],
        history: History,
        env: Mapping[str, str],
        logs: Path,
        module: str = "tests.chaos.app",
    ) -> None:
        self._posts = {post.name: post for post in posts}
        self._module = module
        self._history = history
        self._env = env
        self._logs = logs
        self._executor = ThreadPoolExecutor(len(posts))
        self._workers: dict[str, Future[Worker]] = {}
        self._ended = 0
        #: The posts of workers that did not end when they were told to.
        self.hung: list[str] = []
        for post in posts:
            self.start(post.name)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._posts:
            with suppress(Exception):  # one that did not start has nothing to end
                self.bury(name, self.worker(name))
        self._executor.shutdown()

    @property
    def names(self) -> list[str]:
        """Its posts."""
        return list(self._posts)

    def worker(self, name: str) -> Worker:
        """The worker of a post, once it is ready."""
        return self._workers[name].result()

    def ready(self, names: Sequence[str], pick: float) -> str:
        """One of several posts, by a number from 0 to 1; one whose worker is just starting gives way to another."""
        first = names[int(pick * len(names))]
        return next((name for name in (first, *names) if self._workers[name].done()), first)

    def start(self, name: str) -> None:
        """Starts a worker for a post, in the background."""
        post = self._posts[name]
        options = {"timeout": 120, **post.options}
        env = {**self._env, **post.env}
        self._workers[name] = self._executor.submit(lambda: Worker(self._module, env=env, **options))

    def kill(self, *pids: int) -> None:
        """Kills processes, and writes down that they are about to die."""
        for pid in pids:
            self._history.write("killed", pid=pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def say_quit(self, worker: Worker) -> list[int]:
        """Writes down that a worker's processes are about to end, maybe by others than us. Returns their numbers."""
        pids = [worker.pid, *worker.child_pids()]
        for pid in pids:
            self._history.write("quit", pid=pid)
        return pids

    def end(self, name: str, sig: signal.Signals, grace: float = GRACE) -> Worker:
        """Tells a worker to end, waits for it, and returns what is left of it.

        Args:
            name: Its post.
            sig: The signal.
            grace: Seconds that it gets. Then it is aborted, and writes the stacks of its threads to its log where
                Python's ``faulthandler`` is on.
        """
        worker = self.worker(name)
        if sig is signal.SIGQUIT:
            self.say_quit(worker)
        worker.kill(sig)
        try:
            worker.container.wait(grace)
        except subprocess.TimeoutExpired:
            self.hung.append(name)
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.kill(worker.pid, signal.SIGABRT)
                worker.container.wait(5)
        return worker

    def bury(self, name: str, worker: Worker, pids: list[int] | None = None) -> None:
        """Kills what is left of a worker, and keeps its log.

        Args:
            name: Its post.
            worker: The worker.
            pids: All its processes; those that it has now if not given.
        """
        for pid in [worker.pid, *worker.child_pids()] if pids is None else pids:
            self._history.write("killed", pid=pid)
        self._ended += 1
        (self._logs / f"{self._ended:03}-{name}.log").write_text(worker.logs())
        worker.teardown()
