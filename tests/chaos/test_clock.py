"""The shifted clock shifts the wall clock of a process, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.clock import ShiftedClock

_LOOK = """
import datetime, json, sys, threading, time
boot = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
date = lambda: datetime.datetime.now().timestamp()
for line in sys.stdin:
    begin = time.monotonic()
    time.sleep(0.01)
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.01)
    print(json.dumps([time.time(), time.monotonic(), boot(), date(), time.monotonic() - begin]), flush=True)
"""


def test_shifts_the_wall_clock_alone(tmp_path: Path) -> None:
    clock = ShiftedClock(tmp_path)
    if clock.missing:
        pytest.skip(f"no shifted clock: {clock.missing}")
    command = [sys.executable, "-c", _LOOK]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **clock.env}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for shift in (0, 20, -20, 0):
            clock.shift(shift)
            before = _now()
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic, boot, date, waited = json.loads(process.stdout.readline())
            after = _now()
            assert before[0] <= wall - shift <= after[0]
            assert before[0] <= date - shift <= after[0]
            assert before[1] <= monotonic <= after[1]
            assert before[2] <= boot <= after[2]
            assert waited < after[1] - before[1], "it slept by the wrong clock"
        process.stdin.close()


def _now() -> tuple[float, float, float]:
    return time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
