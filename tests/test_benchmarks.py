"""The benchmarks count what they say: by turns, calls that were dropped, calls until one is taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import app as benchmarked
from benchmarks import overhead, plugins, storm
from benchmarks.rounds import Figure, by_turns
from benchmarks.rows import Row, markdown
from benchmarks.sides.plugins import ALL
from tests.support import report
from tests.support.celery_worker import Worker
from tests.support.servers import RedisServer

PEERS = sorted(benchmarked.PLUGINS)
if missing := sorted(ALL.keys() - benchmarked.PLUGINS.keys()):
    report.could_not_have(", ".join(missing), "their benchmarks were NOT tested; `make .venv/.bench` brings them")


def test_sides_take_turns_and_the_first_round_warms_up() -> None:
    ran: list[str] = []
    sides = {"a": lambda: ran.append("a") or len(ran), "b": lambda: ran.append("b") or len(ran)}
    figures = by_turns(sides, rounds=2)
    assert "".join(ran) == "abbaab"
    assert figures == {"a": Figure((4, 5)), "b": Figure((3, 6))}


def test_a_ratio_is_taken_within_each_round() -> None:
    ratios_1_half_and_4 = Figure((10, 1, 4)), Figure((10, 2, 1))
    assert Figure.over(*ratios_1_half_and_4) == 1  # 2 by the medians of both


def test_what_was_counted_is_shown_as_it_is() -> None:
    rows = [Row("ran", 4, "of 10"), Row("ran", 0, "of 1,000"), Row("ratio", 4.0, "x", at_least=5)]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(rows).splitlines()[2:]]
    assert cells == [
        ["ran", "4", "of 10", "", "", ""],
        ["ran", "0", "of 1,000", "", "", ""],
        ["ratio", "4.00", "x", "", "≥ 5", "short of it"],
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        benchmarked.use_server(server.url())
        yield server


#: What becomes of ten calls on one key: how many ran, raised, were dropped; of other plug-ins as they come.
FATES = {
    "celery-once": (1, 9, 0),
    "celery-singleton": (1, 0, 9),
    "celery-heimdall": (1, 0, 9),
    "celery-heimdall, unique_lock_blocking=False": (1, 0, 9),
}


@pytest.mark.slow
def test_batches_and_calls(server: RedisServer) -> None:
    """A batch is over with the end of its last task; of calls nothing is counted that did not happen."""
    with Worker("benchmarks.app", concurrency=2, env={"BENCHMARK_URL": server.url()}):
        sent, ran = overhead.times(server.client(), benchmarked.plain, 3, 0.5)
        assert sent > 0
        assert ran > 1, "three of half a second took two slots a second at least"
        assert fate(server, benchmarked.storm_park) == (10, 0, 0)
        assert fate(server, benchmarked.storm_at_call) == (1, 0, 9)
        assert {name: fate(server, benchmarked.storm_of[name]) for name in PEERS} == {
            name: FATES[name] for name in PEERS
        }


def fate(server: RedisServer, task: Any) -> tuple[int, int, int]:
    """Of calls that are made before the worker takes the first of them."""
    control = benchmarked.app.control
    assert control.cancel_consumer("celery", reply=True, timeout=30, limit=1)
    results = plugins.make_calls(task, 10)
    control.add_consumer("celery")
    fate = plugins.fate_of(server.client(), results)
    return fate.ran, fate.raised, fate.dropped


@pytest.mark.slow
def test_a_storm(server: RedisServer) -> None:
    """Of ours, and of others, which must be called until they are taken; those that take a second a task left out."""
    others = [name for name in PEERS if not benchmarked.PLUGINS[name].slow]
    for name, outcome in storm.measure(server, ["park", *others], 4, 0.3).items():
        assert 1 <= outcome.messages <= (2 if name == "park" else 1), name
        assert (outcome.calls > 1) == (name != "park"), name
        assert len(outcome.gaps) == 3, name
        assert min(outcome.gaps) >= 0, f"{name}: two ran at once"
