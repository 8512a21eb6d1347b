"""Mutual exclusion by eight processes, on every store; `make exclusion` gives each of them twenty seconds."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from celery_locks.testing.local import processes
from tests.stores import exclusion
from tests.support.celery_worker import ROOT

PROCESSES = 8
SECONDS = float(os.environ.get("CELERY_LOCKS_EXCLUSION_SECONDS", "2"))
#: Seconds that they may take beyond those, on a machine that is busy.
PATIENCE = 110.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 2 * PATIENCE)]


def exclude_each_other(url: str, folder: Path, seconds: float = SECONDS) -> None:
    log, argv = folder / "log", [sys.executable, exclusion.__file__, url, str(folder), str(PROCESSES), str(seconds)]
    with log.open("wb") as output:
        process = processes.start(argv, output=output, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert process.wait(seconds + PATIENCE) == 0, log.read_text()
    finally:
        processes.end(process)
    lines = [line.split() for line in (folder / "fencing_tokens").read_text().splitlines()]
    turns, fencing_tokens = Counter(number for number, _ in lines), [int(token) for _, token in lines]
    assert len(turns) == PROCESSES
    assert fencing_tokens == sorted(set(fencing_tokens)), "they strictly grow"
    print(f"{len(lines)} turns in {seconds:g} s, of each process {min(turns.values())} to {max(turns.values())}")


def test_on_redis(each_redis_url: str, tmp_path: Path) -> None:
    exclude_each_other(each_redis_url, tmp_path)


def test_on_sqlite(tmp_path: Path) -> None:
    exclude_each_other(f"sqlite:///{tmp_path / 'locks.db'}", tmp_path)


def test_on_postgresql(postgresql_url: str, tmp_path: Path) -> None:
    exclude_each_other(postgresql_url, tmp_path)


def test_on_mariadb(mariadb_url: str, tmp_path: Path) -> None:
    exclude_each_other(mariadb_url, tmp_path)
