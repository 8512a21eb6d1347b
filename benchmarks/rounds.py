"""Sides measured by turns, so that the machine's moods strike all of them, and what they come to beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What one side came to, in rounds.

    Attributes:
        rates: How often a second (or whatever is counted), one for each round.
    """

    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest."""
        return min(self.rates), max(self.rates)

    def over(self, other: Figure) -> float:
        """The median of the ratios of this side to another, each taken within a round."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.rates, other.rates, strict=True))


def by_turns(
    sides: Mapping[str, Callable[[], float]], rounds: int, told: Callable[[], None] = lambda: None
) -> dict[str, Figure]:
    """Runs each side once a round, in an order that turns from round to round; the first round is a warm-up.

    Args:
        sides: What gives a side's rate, by the side's name.
        rounds: How many rounds count.
        told: Called after each run of a side.
    """
    names, rates = list(sides), {name: list[float]() for name in sides}
    for number in range(rounds + 1):
        for place in range(len(names)):
            name = names[(place + number) % len(names)]
            rate = sides[name]()
            if number:
                rates[name].append(rate)
            told()
    return {name: Figure(tuple(each)) for name, each in rates.items()}
