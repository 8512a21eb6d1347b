"""Beside other plug-ins for Celery: what a lock on a free key costs, and what becomes of calls whose key is taken.

Those plug-ins lock at the call, so calls count as well as runs, and tasks are acknowledged when they have ended, with
all that the plug-in does then. Storms in which every task must run are in `benchmarks.storm`.

    python -m benchmarks.plugins
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from benchmarks import overhead
from benchmarks.app import (
    PLUGINS,
    app,
    free_of,
    locked,
    locked_at_call,
    plain,
    storm_at_call,
    storm_of,
    storm_park,
    storm_retry,
    use_server,
)
from benchmarks.rounds import by_turns
from benchmarks.rows import Row, table
from benchmarks.sides import plugins
from tests.support.celery_worker import Worker
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

#: Tasks of a batch where each takes a second.
SLOW_BATCH = 4
#: Calls in a row, and where each takes a second.
CALLS, SLOW_CALLS = 100, 10
#: Seconds that their bodies sleep.
WORK = 0.01


@dataclass(frozen=True)
class Fate:
    """What became of calls: of some their own run, of some an error, of some neither."""

    calls: int
    ran: int
    raised: int

    @property
    def dropped(self) -> int:
        """How many did not run, though no call said so by an error."""
        return self.calls - self.ran - self.raised


def rows(server: RedisServer, rounds: int, tasks: int) -> list[Row]:
    """Calls and runs on free keys by turns, then calls on one key."""
    use_server(server.url())
    for name in plugins.ALL.keys() - PLUGINS.keys():
        print(f"{name} is not installed, and not measured.", file=sys.stderr)
    env = {"BENCHMARK_URL": server.url(), "BENCHMARK_ACKS_LATE": "1"}
    with Worker("benchmarks.app", concurrency=4, env=env):
        return _on_free_keys(server.client(), rounds, tasks) + _on_one_key(server.client())


def _on_free_keys(client: Any, rounds: int, tasks: int) -> list[Row]:
    sides: dict[str, tuple[Any, int]] = {
        "unlocked": (plain, tasks),
        "celery-locks (locks at the run)": (locked, tasks),
        "celery-locks, until_executed (locks at the call, the run takes the lease over)": (locked_at_call, tasks),
    }
    for name, plugin in PLUGINS.items():
        sides[f"{name} ({plugin.does})"] = free_of[name], SLOW_BATCH if plugin.slow else tasks
    figures = by_turns({name: partial(_rate, client, task, many) for name, (task, many) in sides.items()}, rounds)
    unlocked = figures.pop("unlocked")
    found = [Row("unlocked tasks, call and run, prefork 4", unlocked.median, "tasks/s", spread=unlocked.spread)]
    for name, figure in figures.items():
        ratios = [theirs / bare for theirs, bare in zip(figure.rates, unlocked.rates, strict=True)]
        what = f"locked / unlocked tasks, call and run, prefork 4, free keys: {name}"
        found.append(Row(what, figure.over(unlocked), "x", spread=(min(ratios), max(ratios))))
    return found


def _rate(client: Any, task: Any, tasks: int) -> float:
    return tasks / sum(overhead.times(client, task, tasks, 0.0))


def _on_one_key(client: Any) -> list[Row]:
    sides: dict[str, tuple[Any, int]] = {
        "celery-locks": (storm_retry, CALLS),
        "celery-locks, park": (storm_park, CALLS),
        "celery-locks, until_executed": (storm_at_call, CALLS),
    }
    for name, plugin in PLUGINS.items():
        sides[name] = storm_of[name], SLOW_CALLS if plugin.slow else CALLS
    found = []
    for name, (task, calls) in sides.items():
        fate, what = fate_of(client, make_calls(task, calls)), f"calls in a row on one key, 10 ms, {name}"
        found += [
            Row(f"{what}: ran", fate.ran, f"of {calls}"),
            Row(f"{what}: raised an error", fate.raised, f"of {calls}"),
            Row(f"{what}: dropped without an error", fate.dropped, f"of {calls}"),
        ]
    return found


def make_calls(task: Any, calls: int) -> list[str | None]:
    """Calls a task of one key so often, one call after the other.

    Returns:
        The ids of the tasks that the calls' results are of; ``None`` where a call raised.
    """
    app.backend.client.delete("storm:run")
    return [_id_of_call(task) for _ in range(calls)]


def _id_of_call(task: Any) -> str | None:
    with suppress(Exception):  # each plug-in has an error of its own
        return str(task.delay("key", WORK).id)
    return None


def fate_of(client: Any, results: list[str | None]) -> Fate:
    """What became of calls, seen when all that they sent has ended."""
    taken = set(results) - {None}

    def ran() -> int:
        return int(client.llen("storm:run"))

    with suppress(AssertionError):  # then what was taken has been dropped, as the figures will say
        eventually(lambda: ran() >= len(taken), 60)
    eventually(lambda: not client.llen("celery") and not client.hlen("unacked"), 60)
    return Fate(len(results), ran(), results.count(None))


if __name__ == "__main__":
    started = time.monotonic()
    with RedisServer() as redis_server:
        Console(width=160).print(table("Other plug-ins", rows(redis_server, rounds=5, tasks=200)))
    print(f"{time.monotonic() - started:.0f} s")
