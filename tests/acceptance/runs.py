"""What several tests ask about runs. A run is what the tasks return: when, where and under which lease it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.result import AsyncResult

#: Seconds within which a result must be there. What is slow here is the machine, not the lock.
SOON = 60

Run = dict[str, Any]


def runs_of(results: Sequence[AsyncResult]) -> list[Run]:
    """Wait for all results; return the runs in the order in which they began."""
    return sorted((result.get(timeout=SOON) for result in results), key=lambda run: run["began"])


def most_at_once(runs: Sequence[Run]) -> int:
    """Return how many runs there were at one time."""
    return max(sum(other["began"] <= run["began"] < other["ended"] for other in runs) for run in runs)


def fences_grow(runs: Sequence[Run]) -> bool:
    """Return whether each run had a greater fencing token than the one before."""
    fences = [run["fence"] for run in runs]
    return fences == sorted(set(fences))
