"""The storm: many tasks on few keys, all sent at once. What does waiting cost, and whom does it hold up?

Beside the same tasks without a lock on a worker with one slot, which is as good as it can get: one at a time, each
next message at hand.

    python -m benchmarks.storm --help
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.app import (
    PLUGINS,
    app,
    storm_free,
    storm_park,
    storm_retry,
    telling_of,
    unrelated,
    use_queues,
    use_server,
)
from benchmarks.rows import Row
from benchmarks.sides.plugins import Plugin
from tests.support.celery_worker import Worker
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import RedisServer
from tests.support.sql_servers import PostgresServer
from tests.support.waiting import eventually

#: Task, slots, and environment of the worker.
MODES: dict[str, tuple[Any, int, dict[str, str]]] = {
    "free": (storm_free, 1, {}),
    "park": (storm_park, 4, {}),
    "in-pool": (storm_park, 4, {"BENCHMARK_PARK_IN_POOL": "1"}),
    "published": (storm_park, 4, {"BENCHMARK_PUBLISH": "1"}),
    "neither": (storm_park, 4, {"BENCHMARK_PARK_IN_POOL": "1", "BENCHMARK_PUBLISH": "1"}),
    "retry": (storm_retry, 4, {}),
    # They refuse a call whose key is queued or runs, so a caller whose tasks must all run calls until it is taken.
    **{name: (task, 4, {}) for name, task in telling_of.items()},
}
#: Tasks of the storms of other plug-ins, and of those that take a second for each, however short the work is.
PLUGIN_TASKS, SLOW_TASKS = 100, 10
#: Seconds between two calls of a task that was refused.
CALL_AGAIN = 0.005
#: What ours should take at most beside other plug-ins.
ASKED = {"celery-heimdall": {"park": 0.6}}
#: Seconds between two unrelated tasks.
UNRELATED_EVERY = 0.25
#: What parking should take at most beside unlocked tasks in one slot, by the seconds of work.
WALL = {0.001: 1.8, 0.01: 1.1}


@dataclass
class Outcome:
    """What a storm was like; messages and calls a task, times in seconds, lists sorted; runs by the key."""

    messages: float
    calls: float
    wall: float
    gaps: list[float]
    latencies: list[float]
    shares: dict[str, int]

    @property
    def unevenness(self) -> float:
        """How far the shares of the keys are apart, while all of them have tasks in line."""
        return max(self.shares.values()) / min(self.shares.values()) - 1


@click.command()
@click.option("--tasks", default=2000, show_default=True, help="Tasks, over all keys.")
@click.option("--keys", default=1, show_default=True, help="Keys.")
@click.option("--slots", default=4, show_default=True, help="Slots of the worker, except without locks.")
@click.option("--seconds", default=0.01, show_default=True, help="How long each body sleeps.")
@click.option(
    "--modes",
    default="free,park,retry",
    show_default=True,
    help="Which. in-pool: the pool parks; published: no direct dispatch; neither: both of these.",
)
@click.option("--postgresql", is_flag=True, help="With the locks in PostgreSQL.")
@click.option(
    "--rabbitmq", type=click.Choice(["classic", "quorum"]), help="With RabbitMQ as the broker, and such queues."
)
@click.option("--backlog", is_flag=True, help="The worker begins when all have been sent, not with the first.")
def main(
    tasks: int,
    keys: int,
    slots: int,
    seconds: float,
    modes: str,
    postgresql: bool,
    rabbitmq: str | None,
    backlog: bool,
) -> None:
    """A storm of tasks on one key, or on few."""
    with (
        RedisServer() as server,
        RabbitServer() if rabbitmq else nullcontext() as rabbit,
        PostgresServer("-c", "fsync=on") if postgresql else nullcontext() as database,
    ):
        outcomes = measure(
            server,
            modes.split(","),
            tasks,
            seconds,
            keys=keys,
            slots=slots,
            backlog=backlog,
            broker="" if rabbit is None else rabbit.url,
            queues=rabbitmq,
            store="" if database is None else database.url(),
        )
    report(outcomes, tasks * seconds / keys)


def measure(
    server: RedisServer,
    modes: list[str],
    tasks: int,
    seconds: float,
    *,
    keys: int = 1,
    slots: int = 4,
    backlog: bool = False,
    broker: str = "",
    queues: str | None = None,
    store: str = "",
) -> dict[str, Outcome]:
    """One storm for each mode."""
    env = {"BENCHMARK_URL": server.url(), "BENCHMARK_BROKER": broker, "BENCHMARK_STORE": store}
    env |= {"BENCHMARK_PREFETCH": "1"}
    if queues:
        use_queues(queues)
        env["BENCHMARK_QUEUES"] = queues
    use_server(server.url(), broker, store)
    return {mode: storm(server, env, mode, tasks, seconds, keys, slots, backlog) for mode in modes}


def rows(server: RedisServer, storms: Mapping[float, int]) -> list[Row]:
    """Storms of so many tasks, by the seconds of work that each has."""
    found = []
    for seconds, many in storms.items():
        modes = ["free", "park", "retry"] if seconds == 0.01 else ["free", "park"]
        at = f"storm, {1000 * seconds:g} ms"
        outcomes = measure(server, modes, many, seconds)
        found += _of_mode(f"{at}, park", outcomes["park"], many * seconds, seconds)
        walls = {mode: outcome.wall for mode, outcome in outcomes.items()}
        ratio = walls["park"] / walls["free"]
        found.append(Row(f"{at}: wall park / unlocked in one slot", ratio, "x", at_most=WALL.get(seconds)))
        if "retry" in outcomes:
            messages = outcomes["retry"].messages
            found += [
                Row(f"{at}: wall park / retry", walls["park"] / walls["retry"], "x", at_most=0.6),
                Row(f"{at}, retry: messages", messages, "a task"),
                *_of_plugins(server, at, {"park": walls["park"] / many}, seconds),
            ]
    return found + _of_keys(server)


def _of_keys(server: RedisServer) -> list[Row]:
    """Four keys on three slots: none of them, and no other task, waits for the others."""
    outcome = measure(server, ["park"], 1200, 0.01, keys=4, slots=3)["park"]
    at = "storm on 4 keys, 3 slots"
    return [
        Row(f"{at}: shares of the keys apart", outcome.unevenness, "x", at_most=0.05),
        Row(f"{at}: an unrelated task, most", 1000 * outcome.latencies[-1], "ms", at_most=150),
    ]


def _of_plugins(server: RedisServer, at: str, ours: dict[str, float], seconds: float) -> list[Row]:
    """What other plug-ins are like, beside the seconds that a task takes by ways of ours."""
    found = []
    for name, plugin in PLUGINS.items():
        tasks = SLOW_TASKS if plugin.slow else PLUGIN_TASKS
        outcome = measure(server, [name], tasks, seconds)[name]
        what, wall = f"{at}, {name}, called until taken", outcome.wall / tasks
        found += [
            Row(f"{what}: wall", 1000 * wall, "ms a task"),
            Row(f"{what}: calls", outcome.calls, "a task"),
            Row(f"{what}: messages", outcome.messages, "a task"),
        ]
        asked = ASKED.get(name, {})
        found += [Row(f"{at}: wall {way} / {name}", ours[way] / wall, "x", at_most=asked.get(way)) for way in ours]
    return found


def _of_mode(what: str, outcome: Outcome, ideal: float, seconds: float) -> list[Row]:
    def at(times: list[float], share: float) -> float:
        return 1000 * times[min(int(len(times) * share), len(times) - 1)]

    return [
        Row(f"{what}: messages", outcome.messages, "a task", at_most=1.05),
        Row(f"{what}: wall / ideal", outcome.wall / ideal, "x", at_most=1.06 if seconds == 0.1 else None),
        Row(f"{what}: end to next start, p50", at(outcome.gaps, 0.5), "ms", at_most=2),
        Row(f"{what}: end to next start, p95", at(outcome.gaps, 0.95), "ms", at_most=5),
        Row(f"{what}: end to next start, most", at(outcome.gaps, 1), "ms", at_most=100),
        Row(f"{what}: an unrelated task, median", at(outcome.latencies, 0.5), "ms", at_most=20),
        Row(f"{what}: an unrelated task, most", at(outcome.latencies, 1), "ms", at_most=500),
    ]


def storm(
    server: RedisServer,
    variables: dict[str, str],
    mode: str,
    tasks: int,
    seconds: float,
    keys: int,
    slots: int,
    backlog: bool,
) -> Outcome:
    task, own_slots, env = MODES[mode]
    client = server.client()
    client.flushall()
    with (
        ThreadPoolExecutor(1) as sending,
        Worker("benchmarks.app", concurrency=min(own_slots, slots), env={**variables, **env}) as worker,
    ):
        if backlog:
            app.control.cancel_consumer("celery", reply=True, timeout=5, limit=1)
        sender = sending.submit(send, task, tasks, seconds, keys, PLUGINS.get(mode))
        if backlog:
            sender.result()
            app.control.add_consumer("celery")
        storm_over(client, tasks, sender)
        arrived = rf"MainProcess\] Task {re.escape(task.name)}\[[^]]+\] (?:received|parked)"
        logs = worker.logs()
        messages = len(re.findall(arrived, logs)) - logs.count("dispatched directly")
    runs, others = stretches(client, "run"), stretches(client, "unrelated")
    wall = max(end for _, end, _ in runs) - runs[0][0]
    by_key = [[run for run in runs if run[2] == key] for key in {run[2] for run in runs}]
    gaps = sorted(after[0] - before[1] for each in by_key for before, after in pairwise(each))
    shares = Counter(key for _, _, key in runs[: len(runs) // 2])
    return Outcome(
        messages / tasks,
        sender.result() / tasks,
        wall,
        gaps,
        sorted(end - begin for begin, end, _ in others),
        shares,
    )


def send(task: Any, tasks: int, seconds: float, keys: int, plugin: Plugin | None) -> int:
    """Returns how many calls it took; a plug-in's task is called until it is taken."""
    if plugin is None:
        for number in range(tasks):
            task.delay(f"key-{number % keys}", seconds)
        return tasks
    return sum(_call_until_taken(task, seconds, plugin) for _ in range(tasks))


def _call_until_taken(task: Any, seconds: float, plugin: Plugin) -> int:
    give_up = time.monotonic() + 60
    for calls in count(1):
        with suppress(plugin.refusal):
            task.delay("key", seconds)
            return calls
        assert time.monotonic() < give_up, f"{task.name} was not taken"
        time.sleep(CALL_AGAIN)
    raise AssertionError("never")


def storm_over(client: Any, tasks: int, sender: Future[int]) -> None:
    """Waits for the last run, and sends unrelated tasks meanwhile."""
    give_up = time.monotonic() + 900
    while client.llen("storm:run") < tasks:
        if sender.done():
            sender.result()  # raises what the sender did
        assert time.monotonic() < give_up, "the storm did not end"
        unrelated.delay(time.monotonic())
        time.sleep(UNRELATED_EVERY)
    eventually(lambda: client.llen("celery") == 0, 60)


def stretches(client: Any, kind: str) -> list[tuple[float, float, str]]:
    entries = (entry.split(" ") for entry in client.lrange(f"storm:{kind}", 0, -1))
    return sorted((float(begin), float(end), key) for begin, end, key in entries)


def report(outcomes: dict[str, Outcome], ideal: float) -> None:
    table = Table("mode", "messages a task", "wall, s", "to ideal", "to free", "end to next start, ms", "unrelated, ms")
    if has_keys := any(len(outcome.shares) > 1 for outcome in outcomes.values()):
        table.add_column("shares apart")
    free = outcomes.get("free")
    for mode, outcome in outcomes.items():
        table.add_row(
            mode,
            f"{outcome.messages:.2f}",
            f"{outcome.wall:.1f}",
            f"{outcome.wall / ideal:.2f}",
            f"{outcome.wall / free.wall:.2f}" if free else "",
            quantiles(outcome.gaps),
            quantiles(outcome.latencies),
            *([f"{outcome.unevenness:.1%}"] if has_keys else []),
        )
    Console(width=140).print(table)


def quantiles(times: list[float]) -> str:
    """Median, 95th percentile and maximum."""
    at = [times[min(int(len(times) * share), len(times) - 1)] * 1000 for share in (0.5, 0.95, 1)]
    return " / ".join(f"{value:.1f}" for value in at)


if __name__ == "__main__":
    main()
