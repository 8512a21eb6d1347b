"""What is measured: each group on a server of its own, and in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import databases, files, overhead, pairs, plugins, renewal, scale, small, storm, wake
from benchmarks.rows import Row
from tests.support.servers import RedisServer

Group = Callable[[RedisServer], list[Row]]

FULL: dict[str, Group] = {
    "Acquire and release": lambda server: pairs.rows(server, rounds=5, seconds=0.3),
    "SQLite": lambda server: files.rows(seconds=5),
    "PostgreSQL": lambda server: databases.rows(rounds=3, seconds=1, wakes=60),
    "Tasks on free keys": lambda server: overhead.rows(server, tasks=300, pairs=6),
    "A storm of tasks on one key": lambda server: storm.rows(server, {0.001: 500, 0.01: 2000, 0.1: 30}),
    "Other plug-ins": lambda server: plugins.rows(server, rounds=3, tasks=200),
    "Waiting": lambda server: wake.rows(server, rounds=200),
    "Renewal": lambda server: renewal.rows(server, interval=4, cycles=3),
    "Many locks": lambda server: scale.rows(server, many=1_000_000),
    "Small things": lambda server: small.rows(rounds=9),
}
QUICK: dict[str, Group] = {
    "Acquire and release": lambda server: pairs.rows(server, rounds=2, seconds=0.1),
    "SQLite": lambda server: files.rows(seconds=1),
    "Waiting": lambda server: wake.rows(server, rounds=40),
    "Many locks": lambda server: scale.rows(server, many=20_000),
    "Small things": lambda server: small.rows(rounds=3),
}


def run(name: str, quick: bool) -> list[Row]:
    """Measures a group, on a server of its own; in a new process, for Celery keeps its connections."""
    with RedisServer() as server:
        return (QUICK if quick else FULL)[name](server)
