"""An abort that races with the end of its body never lands after it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.celery_worker import ROOT

KINDS = ("signal", "thread", "gevent", "eventlet")


def race(kind: str, count: int, *how: str) -> dict[str, int]:
    argv = [sys.executable, "-W", "ignore", "-m", "tests.tasks.abort_race", kind, str(count), *how]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, int] = json.loads(done.stdout)
    return outcomes


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_of_ten_thousand_aborts_none_lands_after_its_body(kind: str) -> None:
    outcomes = race(kind, 10_000)
    assert outcomes["outside"] == 0
    assert outcomes["ended"] + outcomes["stopped"] == 10_000
    assert min(outcomes["ended"], outcomes["stopped"]) > 500, "else there was no race"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_of_two_bodies_one_within_the_other_each_is_stopped_alone(kind: str) -> None:
    outcomes = race(kind, 2_000, "nested")
    assert outcomes["outside"] == 0
    assert min(outcomes["ended"], outcomes["stopped"]) > 100, "else there was no race"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_guard_some_would(kind: str) -> None:
    """Or the two above would show nothing."""
    assert race(kind, 300, "unguarded")["outside"] > 0
