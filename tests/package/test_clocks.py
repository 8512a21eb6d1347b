"""Only `celery_locks._runtime.clock` reads the machine's clocks: tools that freeze time freeze nothing of ours."""

from __future__ import annotations

import re

import pytest

from celery_locks._runtime import clock
from tests.support.celery_worker import ROOT
from tests.support.frozen_time import frozen_time

PACKAGE = ROOT / "celery_locks"
#: Folders that still read them: what is in them measures, shows or tests, but for the stores.
EXCLUDED = (
    "cli",
    "contrib",
    "flower",
    "telemetry",
    "testing",
)
_READS = re.compile(
    r"\btime\.(monotonic|time|perf_counter)\b|^from time import .*\b(monotonic|time|perf_counter)\b", re.M
)


def test_only_one_module_reads_the_clocks() -> None:
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert len(sources) > 200
    found = {name for name, source in sources.items() if _READS.search(source)}
    assert found - {name for name in found if name.startswith(EXCLUDED)} == {"_runtime/clock.py"}


@pytest.mark.parametrize("ticking", [False, True])
def test_the_clocks_go_on_in_frozen_time(ticking: bool) -> None:
    now, wall = clock.monotonic(), clock.wall_time()
    with frozen_time(ticking):
        assert 0 < clock.monotonic() - now < 60
        assert 0 <= clock.wall_time() - wall < 60
