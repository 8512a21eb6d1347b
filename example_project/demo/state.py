"""The state that a screen shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from example_project.demo.watch import Holding


@dataclass
class State:
    """The shop at one moment.

    Attributes:
        keys: All keys.
        ttl: The ttl of a lease, in seconds.
        total: The number of tasks of the whole demo.
        note: What the demo waits for, if not for tasks.
        dead: The workers that were killed.
    """

    keys: Sequence[str]
    ttl: float
    total: int
    sent: int = 0
    done: int = 0
    note: str = ""
    holdings: list[Holding] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)


class Screen(Protocol):
    """The output of the demo."""

    def say(self, text: str) -> None:
        """Print a text that stays."""

    def show(self, state: State) -> None:
        """Show the current state. It is called ten times a second."""

    def close(self) -> None:
        """Remove the state, and leave the texts."""
