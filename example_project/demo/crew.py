"""The workers of the shop: real Celery workers with processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable

from example_project.demo.interrupt import pause
from example_project.demo.processes import Process, Stage

#: Seconds that a worker has to be ready, and to end when it is asked to.
READY_WITHIN, ENDS_WITHIN = 60.0, 3.0


class Crew:
    """Workers by name.

    Attributes:
        deaths: When those died that did not end by themselves, on the machine's clock.
    """

    def __init__(self, stage: Stage, concurrency: int) -> None:
        self.deaths: dict[str, float] = {}
        self._stage = stage
        self._concurrency = concurrency
        self._at_work: dict[str, Process] = {}
        self._ready: set[str] = set()
        self._hired = 0

    def hire(self) -> str:
        """Starts a worker, and returns its name without waiting."""
        self._hired += 1
        name = f"worker{self._hired}"
        command = ("-m", "example_project.demo.worker", f"{name}@shop", "--concurrency", str(self._concurrency))
        self._at_work[name] = self._stage.start_python(name, *command)
        return name

    def names(self) -> list[str]:
        return list(self._at_work)

    def wait_until_ready(self, meanwhile: Callable[[], None]) -> None:
        """Waits for all workers.

        Raises:
            DemoError: One does not start; says what it logged.
        """
        end = time.monotonic() + READY_WITHIN
        while len(self._ready) < len(self._at_work):
            self.newly_ready()
            self._stage.check()
            if time.monotonic() > end:
                late = next(process for name, process in self._at_work.items() if name not in self._ready)
                raise late.error(f"was not ready within {READY_WITHIN:.0f} s")
            meanwhile()
            pause(0.05)

    def newly_ready(self) -> list[str]:
        """Workers that became ready since this was last asked."""
        waiting = [name for name in self._at_work if name not in self._ready]
        ready = [name for name in waiting if self._at_work[name].said(" ready.")]
        self._ready.update(ready)
        return ready

    def kill(self, name: str) -> None:
        """SIGKILL for a worker and all its children: as if the power of its machine was cut."""
        self._at_work.pop(name).kill()
        self.deaths[name] = time.monotonic()

    def dismiss(self, meanwhile: Callable[[], None]) -> None:
        """Has all workers finish what they are at and end; kills those that don't."""
        for process in self._at_work.values():
            process.terminate()
        end = time.monotonic() + ENDS_WITHIN
        while any(process.running for process in self._at_work.values()) and time.monotonic() < end:
            meanwhile()
            pause(0.05)
        for name in self.names():
            self.kill(name)
