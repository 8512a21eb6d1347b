"""Pictures of what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.rows import Row


def pairs(rows: Iterable[Row], path: Path) -> None:
    """How many times as fast as each side ours is, with one thread, as bars."""
    from matplotlib.figure import Figure  # without pyplot nothing looks for a screen

    start = "pairs, 1 thread: ours / "
    ratios = sorted((row.value, row.what.removeprefix(start)) for row in rows if row.what.startswith(start))
    figure = Figure(figsize=(7, 0.4 * len(ratios) + 1))
    axes = figure.subplots()
    bars = axes.barh([name for _, name in ratios], [value for value, _ in ratios], color="#3f51b5")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_title("celery-locks, as many times as fast as")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
