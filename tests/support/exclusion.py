"""Eight processes that want one lock, and a judge who knows nothing of the store."""

from __future__ import annotations

import os
import sys
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tests.support import processes
from tests.support.waiting import eventually

PROCESSES, EACH = 8, 5
ROOT = Path(__file__).parents[2]


def exclude_one_another(url: str, folder: Path) -> None:
    """Lets them take it in turn until each had it a few times; fails if two were inside, or a fencing token fell."""
    program = str(ROOT / "tests/stores/excluded.py")
    command = [sys.executable, program, url, f"exclusion-{uuid.uuid4().hex}", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        users = []
        for number in range(PROCESSES):
            log = stack.enter_context((folder / f"log-{number}").open("wb"))
            users.append(processes.start(command, output=log, env=environment))
            stack.callback(processes.end, users[-1])

        def enough() -> bool:
            failed = [number for number, user in enumerate(users) if user.poll() is not None]
            for number in failed:
                raise SystemExit((folder / f"log-{number}").read_text())
            turns = Counter(pid for _, pid in record(folder))
            return len(turns) == PROCESSES and min(turns.values()) >= EACH

        eventually(enough, 90, "not all of them had the lock")
        (folder / "over").touch()
        for number, user in enumerate(users):
            assert user.wait(60) == 0, (folder / f"log-{number}").read_text()
    fences = [fence for fence, _ in record(folder)]
    assert fences == sorted(set(fences)), "a fencing token was no greater than the one before"


def record(folder: Path) -> list[tuple[int, int]]:
    """Fencing tokens and processes, in the order of their turns."""
    path = folder / "record"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(fence), int(pid)) for fence, pid in (line.split() for line in lines)]
