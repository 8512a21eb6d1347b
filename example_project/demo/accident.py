"""One worker's sudden death in mid-run, and what follows from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from example_project.demo.crew import Crew
from example_project.demo.watch import Holding
from example_project.shop import journal

#: The worker dies when it has held a key for so many seconds: long after its lease was renewed for the first time.
HELD_FOR = 1.5
#: Seconds after which a new worker starts, if the others have not taken over by then.
REPLACE_AFTER = 5.0


@dataclass(frozen=True)
class TakeOver:
    """A dead worker's key, held by another."""

    key: str
    worker: str
    after: float


@dataclass
class Accident:
    """Kills the worker that has held a key for longest, and watches how others take its keys over.

    Args:
        crew: The workers.
        look: Gives what is held now.
        tell: Told what happens.
    """

    crew: Crew
    look: Callable[[], list[Holding]]
    tell: Callable[[str], None]
    victim: str = ""
    at: float = 0.0
    #: What it held when it died, the longest held first.
    held: list[Holding] = field(default_factory=list)
    take_overs: dict[str, TakeOver] = field(default_factory=dict)
    _replaced: bool = False

    @property
    def over(self) -> bool:
        """Whether all that must happen after it has happened."""
        return self._replaced and self.held[0].key in self.take_overs

    def watch(self, holdings: list[Holding]) -> None:
        """Called every now and then with what is held."""
        if not self.victim:
            self._strike(holdings)
        else:
            self._look_for_take_overs()
            self._replace()

    def _strike(self, holdings: list[Holding]) -> None:
        longest = max(holdings, key=lambda holding: holding.held_for, default=None)
        if longest is None or longest.held_for < HELD_FOR or longest.worker not in self.crew.names():
            return
        self.victim = longest.worker
        self.crew.kill(self.victim)
        self.at = self.crew.deaths[self.victim]
        # Looked at once more: what the dead still holds is held until others see it dead, or the lease ends.
        left_behind = [holding for holding in self.look() if holding.worker == self.victim]
        self.held = sorted(left_behind, key=lambda holding: -holding.held_for)
        if self.held:
            self._tell_of_kill(self.held[0])
        else:  # The run had ended just before: another time.
            self.tell(f"Killed {self.victim}, but its task had just ended. {self.crew.hire()} starts in its place.")
            self.victim = ""

    def _tell_of_kill(self, longest: Holding) -> None:
        others = "".join(f", {holding.key}" for holding in self.held[1:])
        self.tell(f"Killed {self.victim} (SIGKILL) while it held {longest.key}{others}.")
        self.tell(f"Its lease on {longest.key} has {longest.left:.1f} s left.")

    def _look_for_take_overs(self) -> None:
        waiting = {holding.key: holding for holding in self.held if holding.key not in self.take_overs}
        if not waiting:
            return
        # Asked of the journal: it knows when the new holder's run began, not only when it was seen.
        for run in journal.runs():
            if run.key in waiting and run.began > self.at:
                del waiting[run.key]
                self.take_overs[run.key] = TakeOver(run.key, run.worker, run.began - self.at)
                self.tell(f"{run.worker} took over {run.key}, {run.began - self.at:.1f} s after the kill.")

    def _replace(self) -> None:
        waits = self.crew.names() and self.held[0].key not in self.take_overs
        if self._replaced or (waits and time.monotonic() < self.at + REPLACE_AFTER):
            return
        self._replaced = True
        self.tell(f"{self.crew.hire()} starts in place of {self.victim}.")
