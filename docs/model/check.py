"""Check the model of a ticket's life with Spin: ``make model``. Needs Debian's spin and gcc.

Each search is exhaustive: Spin visits every state that the model can reach. The model proves nothing if it can't fail,
so each known fault is put back in turn, and Spin has to find it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).resolve().with_name("ticket.pml")
PROGRAMS = ("spin", "gcc")
MISSING = "the model needs Spin and a C compiler: install Debian's spin and gcc"
#: The largest search needs half of this.
MEMORY_MEGABYTES = 2000
SEARCH_TIMEOUT_SECONDS = 1800

#: What each assertion of the model states, by its number there.
PROPERTIES = {
    1: "never two live runs of a key",
    2: "a ticket is done only after a final end",
    3: "a superseded publication never runs",
    4: "a publication that is done never runs again",
    5: "a final end leaves its ticket done",
    6: "at the end no lease, reservation or message is left",
    7: "every task ends",
}
SAFETY = 0  # asserts 1 to 6, and 7 where no step is left
LIVENESS = 7  # a formula over every execution

LATE, MIXED, EARLY = 7, 5, 0  # one bit for each task with late acknowledgement


@dataclass(frozen=True)
class Bounds:
    """How large the model is.

    Attributes:
        name: Describes it.
        calls: How many tasks are called: two share a key, the third has its own.
        late: Which of them are acknowledged late.
        faults: How many faults happen at most.
        turns: How many retries, requeues, killed children and timeouts happen at most.
    """

    name: str
    calls: int
    late: int
    faults: int
    turns: int

    def defines(self) -> tuple[str, ...]:
        """Return the arguments of Spin."""
        return (
            f"-DCALLS={self.calls}",
            f"-DLATE_TASKS={self.late}",
            f"-DFAULTS={self.faults}",
            f"-DTURNS={self.turns}",
        )


@dataclass(frozen=True)
class Seed:
    """A known fault.

    Attributes:
        name: Of the model's ``SEED_`` definition.
        fault: What is wrong.
        breaks: The property that it breaks.
        bounds: The size at which Spin finds it.
    """

    name: str
    fault: str
    breaks: int
    bounds: Bounds


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        holds: Whether every state and execution has the property.
        states: How many states the search stored.
        seconds: How long it took.
    """

    holds: bool
    states: int
    seconds: float


SMALL = Bounds("2 tasks, late", 2, LATE, 1, 1)
TWO_FAULTS = Bounds("2 tasks, late", 2, LATE, 2, 1)
MIXED_TASKS = Bounds("2 tasks, late and early", 2, MIXED, 2, 1)
EARLY_TASKS = Bounds("2 tasks, early", 2, EARLY, 2, 1)
THREE_TASKS = Bounds("3 tasks, late and early", 3, MIXED, 1, 1)

#: The searches with which a test is content.
QUICK = ((SMALL, SAFETY), (SMALL, LIVENESS))
#: The small size property by property, then the large ones.
WHOLE = (
    *((SMALL, number) for number in PROPERTIES),
    (MIXED_TASKS, LIVENESS),
    (TWO_FAULTS, SAFETY),
    (MIXED_TASKS, SAFETY),
    (EARLY_TASKS, SAFETY),
    (EARLY_TASKS, LIVENESS),
    (THREE_TASKS, LIVENESS),
    (THREE_TASKS, SAFETY),
)

SEEDS = (
    Seed("RELEASE_IS_DONE", "each release makes the ticket done, however the run ended", 2, SMALL),
    Seed("RELEASE_IS_DONE", "each release makes the ticket done, however the run ended", 7, SMALL),
    Seed("TICKET_PER_TASK", "a ticket is named after the task, not the publication", 7, SMALL),
    Seed("DONE_BEFORE_RESULT", "done at the release, before the result is stored", 7, SMALL),
    Seed("OUT_IS_DONE", "a ticket that is out is done before its result is stored", 7, SMALL),
    Seed("NO_DEADLINE", "a dispatched ticket whose message is lost is not parked again", 6, SMALL),
    Seed("DROPPED_COPY_FORGOTTEN", "a copy that is dropped while its task runs is not remembered", 7, SMALL),
    Seed("DIRECT_NOT_OWED", "a task that is dispatched directly is not owed", 7, SMALL),
    Seed("STALE_COPY_NOT_OWED", "a run from an older copy is not owed", 7, TWO_FAULTS),
    Seed("OWED_PARKS_AT_ONCE", "an owed ticket is parked at the release, before its result is stored", 5, SMALL),
    Seed("REAPER_FIRST", "the reaper ends a run before Celery decides on its message", 5, SMALL),
    Seed("NO_TOMBSTONE", "a ticket that is done is deleted", 3, SMALL),
    Seed("NO_TOMBSTONE", "a ticket that is done is deleted", 4, SMALL),
    Seed("RELEASED_BEFORE_DEATH", "the lease is released while the killed child still runs", 1, SMALL),
)


def missing_programs() -> str:
    """Return what to install, empty where everything is installed."""
    return "" if all(map(shutil.which, PROGRAMS)) else MISSING


def search(bounds: Bounds, checked: int, *defines: str) -> Found:
    """Search all states of the model.

    Args:
        bounds: How large it is.
        checked: `SAFETY`, `LIVENESS` or the number of one assertion.
        defines: Further arguments of Spin.

    Raises:
        RuntimeError: The search was not exhaustive, or did not run.
    """
    began = time.monotonic()
    spin = ["spin", *bounds.defines(), *defines, f"-DPROPERTY={checked}"]
    optimize = "-O0" if defines else "-O1"  # a seeded fault is found in less time than the compiler takes
    compiler = ["gcc", optimize, "-w", f"-DMEMLIM={MEMORY_MEGABYTES}"]
    verifier = ["./pan", "-m100000"]
    if checked == LIVENESS:
        spin.append("-DLIVENESS")
        verifier += ["-a", "-A"]  # looks for executions that break the formula; the assertions are the other search's
    else:
        compiler.append("-DSAFETY")
    with tempfile.TemporaryDirectory(prefix="ticket-model-") as folder:
        _run(folder, *spin, "-a", str(MODEL))
        _run(folder, *compiler, "-o", "pan", "pan.c")
        output = _run(folder, *verifier)
    errors, states = re.search(r"errors: (\d+)", output), re.search(r"([\d.e+]+) states, stored", output)
    incomplete = re.search(r".*(?:max search depth too small|out of memory|not completed).*", output)
    if errors is None or states is None or (errors[1] == "0" and incomplete):
        raise RuntimeError(f"the search of {bounds.name} was not exhaustive:\n{output}")
    return Found(errors[1] == "0", int(float(states[1])), time.monotonic() - began)


def _run(folder: str, *argv: str) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=SEARCH_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} failed with exit status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def check(quick: bool, jobs: int) -> bool:
    """Check the protocol and the seeded faults, and print a table of each. Returns whether all is as it should be."""
    right = True
    with ThreadPoolExecutor(jobs) as pool:
        asked = QUICK if quick else WHOLE
        print(f"{'The protocol':<70} {'faults':>6} {'turns':>5}  {'result':<8} {'states':>10} {'seconds':>7}")
        for (bounds, checked), found in zip(asked, pool.map(lambda ask: search(*ask), asked), strict=True):
            right &= found.holds
            what = PROPERTIES.get(checked, "all of these, the last where no step is left")
            label = f"{bounds.name}: {what}"
            print(f"{label:<70} {bounds.faults:>6} {bounds.turns:>5}  {_line('holds', 'BROKEN', found.holds, found)}")
        print(f"\n{'Known faults, put back: Spin has to find each':<84}  {'result':<8} {'states':>10} {'seconds':>7}")
        found_all = pool.map(lambda seed: search(seed.bounds, seed.breaks, f"-DSEED_{seed.name}"), SEEDS)
        for seed, found in zip(SEEDS, found_all, strict=True):
            right &= not found.holds
            print(f"{seed.fault:<84}  {_line('found', 'MISSED', not found.holds, found)}")
            print(f"  breaks: {PROPERTIES[seed.breaks]}")
    return right


def _line(good: str, bad: str, is_good: bool, found: Found) -> str:
    return f"{good if is_good else bad:<8} {found.states:>10,} {found.seconds:>7.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Check the model of a ticket's life with Spin.")
    parser.add_argument("--quick", action="store_true", help="only the smallest size, and the known faults")
    parser.add_argument("--jobs", type=int, default=2, help="how many searches run at the same time (default: 2)")
    options = parser.parse_args(argv)
    if missing := missing_programs():
        print(missing, file=sys.stderr)
        return 2
    return 0 if check(options.quick, options.jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
