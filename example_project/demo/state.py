"""What a screen shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from example_project.demo.watch import Holding


@dataclass
class State:
    """The shop at one moment.

    Attributes:
        keys: All keys there are.
        ttl: How long a lease lives, in seconds.
        total: Tasks that there will be.
        note: What is waited for, if not for tasks.
        dead: Workers that were killed.
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
    """Where people see what happens."""

    def say(self, text: str) -> None:
        """Shows something that stays to be read."""

    def show(self, state: State) -> None:
        """Shows the present state; called ten times a second."""

    def close(self) -> None:
        """Leaves only what was said."""
