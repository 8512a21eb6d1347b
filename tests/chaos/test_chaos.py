"""Everything breaks: no two hold, no older token is accepted, no task is lost.

``CHAOS_SEED``, ``CHAOS_SECONDS`` and ``CHAOS_FOLDER`` (where histories are kept) are what ``make chaos`` sets.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.chaos.checker import Report, check
from tests.chaos.history import read
from tests.chaos.run import OPEN, Run
from tests.chaos.schedule import KINDS, schedule
from tests.support import report

SEED = int(os.environ.get("CHAOS_SEED", "1"))
#: So short that each kind of fault comes once.
SECONDS = float(os.environ.get("CHAOS_SECONDS", "0"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 2 + 1500)
def test_nothing_is_held_twice_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    steps = schedule(SEED, SECONDS)
    (folder / "schedule.txt").write_text("".join(f"{step}\n" for step in steps))
    print(*steps, sep="\n")
    run = Run(steps, SECONDS, SEED, folder)
    begin = time.monotonic()
    broker_may_lose = run.go()
    seconds = time.monotonic() - begin

    events = read(folder)
    found = check(events, broker_may_lose=broker_may_lose)
    summary = told(found, run, seconds)
    report.say(summary)
    (folder / "report.txt").write_text("\n".join([summary, *map(str, found.violations), ""]))
    assert not found.violations, "\n".join([summary, *map(str, found.violations[:20])])
    assert {event.reason for event in events if event.kind == "fault"} == set(KINDS)
    # However slow the machine: at the beginning, nothing is broken yet.
    assert found.figures["tasks ended"] >= OPEN / 2, "hardly anything ran: nothing was shown"


def make_folder(tmp_path: Path) -> Path:
    kept = os.environ.get("CHAOS_FOLDER")
    folder = Path(kept) / f"{time.strftime('%Y%m%d-%H%M%S')}-seed-{SEED}" if kept else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def told(found: Report, run: Run, seconds: float) -> str:
    figures = ", ".join(f"{number} {name}" for name, number in sorted(found.figures.items()))
    again = f" CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:g}"
    return (
        f"Chaos:{again}: {found.figures['fault']} faults of {len(KINDS)} kinds in {seconds:.0f} s, "
        f"{len(found.violations)} violations, {run.rescues} rescues, {run.dropped} replies dropped; "
        f"{figures}. History: {run.folder}"
    )
