"""What a benchmark comes to: rows with a figure each, what it should be at least or at most, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        what: What was measured; unique within a run.
        value: What it came to.
        unit: Of the value: ``pairs/s``, ``ms``, ``x`` for a ratio.
        at_least: What it should not be below, if anything.
        at_most: What it should not be above, if anything.
        spread: The lowest and the highest that rounds came to, if there were rounds.
    """

    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    spread: tuple[float, float] | None = None

    @property
    def kept(self) -> bool | None:
        """Whether it is as it should be; ``None`` where nothing is asked of it."""
        if self.at_least is None and self.at_most is None:
            return None
        enough = self.at_least is None or self.value >= self.at_least
        return enough and (self.at_most is None or self.value <= self.at_most)

    @property
    def asked(self) -> str:
        if self.at_least is not None:
            return f"≥ {number(self.at_least)}"
        return f"≤ {number(self.at_most)}" if self.at_most is not None else ""

    @property
    def range(self) -> str:
        return f"{number(self.spread[0])} to {number(self.spread[1])}" if self.spread else ""


def number(value: float) -> str:
    """A number with as many digits as anybody reads; what was counted as it is."""
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(title: str, rows: Iterable[Row]) -> Table:
    """For the terminal."""
    shown = Table("what", "value", "unit", "lowest to highest", "asked", "", title=title, title_justify="left")
    for row in rows:
        shown.add_row(row.what, number(row.value), row.unit, row.range, row.asked, MARKS[row.kept])
    return shown


def markdown(rows: Iterable[Row]) -> str:
    """For the documentation."""
    lines = ["| what | value | unit | lowest to highest | asked | |", "|---|---:|---|---|---|---|"]
    for row in rows:
        cells = (row.what, number(row.value), row.unit, row.range, row.asked, MARKS[row.kept])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


MARKS = {None: "", True: "kept", False: "short of it"}
