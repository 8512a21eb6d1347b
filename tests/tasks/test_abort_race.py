"""An abort that races with the end of its body never lands after it.

``ABORTS=10000`` races that often in each pool, in place of 2,000 times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.celery_worker import ROOT

KINDS = ("signal", "thread", "gevent", "eventlet")
ABORTS = int(os.environ.get("ABORTS", "2000"))


def race(kind: str, count: int, *how: str) -> dict[str, int]:
    argv = [sys.executable, "-W", "ignore", "-m", "tests.tasks.abort_race", kind, str(count), *how]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, int] = json.loads(done.stdout)
    return outcomes


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_no_abort_lands_after_its_body(kind: str) -> None:
    outcomes = race(kind, ABORTS)
    assert outcomes["outside"] == 0
    assert outcomes["ended"] + outcomes["stopped"] == ABORTS
    assert min(outcomes["ended"], outcomes["stopped"]) > ABORTS / 50, "there was no race"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_of_two_nested_bodies_each_is_stopped_alone(kind: str) -> None:
    outcomes = race(kind, ABORTS // 5, "nested")
    assert outcomes["outside"] == 0
    assert min(outcomes["ended"], outcomes["stopped"]) > ABORTS / 200, "there was no race"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_guard_some_aborts_land_after_their_body(kind: str) -> None:
    """If none did, the two tests above would prove nothing."""
    assert race(kind, 300, "unguarded")["outside"] > 0
