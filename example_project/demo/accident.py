"""The sudden death of a worker during a run, and the take-over of its keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from example_project.demo.crew import Crew
from example_project.demo.watch import Holding
from example_project.shop import journal

#: The worker is killed when it has held a key for this long, which is after the first renewal.
HELD_SECONDS = 1.5
#: A new worker starts after this time, or when the others have taken over.
REPLACE_SECONDS = 5.0


@dataclass(frozen=True)
class TakeOver:
    """A key of the dead worker that another worker has acquired."""

    key: str
    worker: str
    after: float


@dataclass
class Accident:
    """Kills the worker that has held a key for longest, and watches how others take its keys over.

    Args:
        crew: The workers.
        look: Returns the leases that are held now.
        say: Prints a sentence.
    """

    crew: Crew
    look: Callable[[], list[Holding]]
    say: Callable[[str], None]
    victim: str = ""
    at: float = 0.0
    #: The leases that it held when it died, the longest held first.
    held: list[Holding] = field(default_factory=list)
    take_overs: dict[str, TakeOver] = field(default_factory=dict)
    _replaced: bool = False

    @property
    def over(self) -> bool:
        """Whether the first key was taken over and a new worker has started."""
        return self._replaced and self.held[0].key in self.take_overs

    def watch(self, holdings: list[Holding]) -> None:
        """Take note of the leases that are held now, and kill a worker when it is time."""
        if not self.victim:
            self._kill(holdings)
        else:
            self._look_for_take_overs()
            self._replace()

    def _kill(self, holdings: list[Holding]) -> None:
        longest = max(holdings, key=lambda holding: holding.held_for, default=None)
        if longest is None or longest.held_for < HELD_SECONDS or longest.worker not in self.crew.names():
            return
        self.victim = longest.worker
        self.crew.kill(self.victim)
        self.at = self.crew.deaths[self.victim]
        # Read once more: the dead worker keeps these leases until others notice its death, or the leases end.
        left_behind = [holding for holding in self.look() if holding.worker == self.victim]
        self.held = sorted(left_behind, key=lambda holding: -holding.held_for)
        if self.held:
            self._report_kill(self.held[0])
        else:  # the run had just ended: try again
            self.say(f"Killed {self.victim}, but its task had just ended. {self.crew.hire()} starts in its place.")
            self.victim = ""

    def _report_kill(self, longest: Holding) -> None:
        others = "".join(f", {holding.key}" for holding in self.held[1:])
        self.say(f"Killed {self.victim} (SIGKILL) while it held {longest.key}{others}.")
        self.say(f"Its lease on {longest.key} has {longest.left:.1f} s left.")

    def _look_for_take_overs(self) -> None:
        waiting = {holding.key: holding for holding in self.held if holding.key not in self.take_overs}
        if not waiting:
            return
        # The journal has the exact start of the new holder's run.
        for run in journal.runs():
            if run.key in waiting and run.began > self.at:
                del waiting[run.key]
                self.take_overs[run.key] = TakeOver(run.key, run.worker, run.began - self.at)
                self.say(f"{run.worker} took over {run.key}, {run.began - self.at:.1f} s after the kill.")

    def _replace(self) -> None:
        waits = self.crew.names() and self.held[0].key not in self.take_overs
        if self._replaced or (waits and time.monotonic() < self.at + REPLACE_SECONDS):
            return
        self._replaced = True
        self.say(f"{self.crew.hire()} starts in place of {self.victim}.")
