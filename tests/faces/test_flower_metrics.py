"""Flower's own ``/metrics`` tells of the store, with nothing to set up."""

from __future__ import annotations

import os
import sys
import urllib.request
from pathlib import Path

import pytest

from celery_locks import Locks, owners
from celery_locks.testing.local import processes
from celery_locks.testing.nodes.ports import free_port
from tests.faces.test_telemetry import samples
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually

SOON = 90.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_flower_shows_its_store(redis_url: str, tmp_path: Path) -> None:
    locks, port = Locks(redis_url), free_port()
    locks.lock("k", ttl=300, owner=owners.running("shop.sync", "id-1", "web1")).acquire()
    (tmp_path / "proj.py").write_text(f"from celery import Celery\napp = Celery('proj', broker={redis_url!r})\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    argv = [sys.executable, "-m", "celery", "-A", "proj", "flower", f"--port={port}", "--address=127.0.0.1"]
    with (tmp_path / "log").open("wb") as log:
        flower = processes.start(argv, output=log, env=environment, cwd=tmp_path)
    try:

        def told() -> dict[tuple[str, ...], float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return samples(answer.read().decode())

        eventually(lambda: told().get(("store_up",)) == 1, SOON, (tmp_path / "log").read_text())
        assert told()["store_keys",] == told()["store_held", "shop.sync"] == told()["store_complete",] == 1
    finally:
        processes.end(flower)
