"""What needs no server: importing, and building a key."""

from __future__ import annotations

import inspect
import statistics
import subprocess
import sys
import timeit

from benchmarks.rows import Row
from celery_locks.keys.maker import KeyMaker

_IMPORT = "import time; from celery import Celery; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
#: Names are imported when they are asked for, so the first line alone would flatter us; milliseconds that are asked.
_IMPORTED = {
    "import celery_locks": 15.0,
    "from celery_locks import Locks": None,
    "from celery_locks import LockedTask": None,
}


def rows(rounds: int) -> list[Row]:
    """Import times in fresh processes; key building in this one."""
    imports = {what: [1000 * float(_run(what)) for _ in range(rounds)] for what in _IMPORTED}
    return [
        *(
            Row(f"{what}, in a program that has Celery", statistics.median(times), "ms", at_most=_IMPORTED[what])
            for what, times in imports.items()
        ),
        *(Row(f"building a key of {n} arguments", _key(n), "µs") for n in (3, 30)),
    ]


def _run(what: str) -> str:
    command = [sys.executable, "-c", _IMPORT.format(what)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _key(arguments: int) -> float:
    """Microseconds to make the key of a call with so many keyword arguments."""
    names = [f"argument_{number}" for number in range(arguments)]
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    maker = KeyMaker(None, inspect.Signature(parameters), "shop.resync")
    call = dict.fromkeys(names, "some value")
    times = timeit.repeat(lambda: maker.key((), call), number=2_000, repeat=5)
    return min(times) / 2_000 * 1e6
