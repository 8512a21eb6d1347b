"""The workers of the shop: real Celery workers with processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable

from example_project.demo.interrupt import pause
from example_project.demo.processes import Process, Stage

#: How long a worker may take to start, and to end.
START_SECONDS, END_SECONDS = 60.0, 3.0


class Crew:
    """Workers by name.

    Attributes:
        deaths: When the killed workers died, on the machine's clock.
    """

    def __init__(self, stage: Stage, concurrency: int) -> None:
        self.deaths: dict[str, float] = {}
        self._stage = stage
        self._concurrency = concurrency
        self._processes: dict[str, Process] = {}
        self._ready: set[str] = set()
        self._hired = 0

    def hire(self) -> str:
        """Start a worker, and return its name without waiting."""
        self._hired += 1
        name = f"worker{self._hired}"
        command = ("-m", "example_project.demo.worker", f"{name}@shop", "--concurrency", str(self._concurrency))
        self._processes[name] = self._stage.start_python(name, *command)
        return name

    def names(self) -> list[str]:
        return list(self._processes)

    def wait_until_ready(self, meanwhile: Callable[[], None]) -> None:
        """Wait until all workers have started.

        Raises:
            DemoError: A worker does not start. The error contains the end of its log.
        """
        end = time.monotonic() + START_SECONDS
        while len(self._ready) < len(self._processes):
            self.newly_ready()
            self._stage.check()
            if time.monotonic() > end:
                late = next(process for name, process in self._processes.items() if name not in self._ready)
                raise late.error(f"was not ready within {START_SECONDS:.0f} s")
            meanwhile()
            pause(0.05)

    def newly_ready(self) -> list[str]:
        """Return the workers that became ready since the last call."""
        waiting = [name for name in self._processes if name not in self._ready]
        ready = [name for name in waiting if self._processes[name].has_printed(" ready.")]
        self._ready.update(ready)
        return ready

    def kill(self, name: str) -> None:
        """Send SIGKILL to a worker and all its children, as if its machine had lost power."""
        self._processes.pop(name).kill()
        self.deaths[name] = time.monotonic()

    def dismiss(self, meanwhile: Callable[[], None]) -> None:
        """Let all workers finish their tasks and end. Kill the workers that don't end in time."""
        for process in self._processes.values():
            process.terminate()
        end = time.monotonic() + END_SECONDS
        while any(process.running for process in self._processes.values()) and time.monotonic() < end:
            meanwhile()
            pause(0.05)
        for name in self.names():
            self.kill(name)
