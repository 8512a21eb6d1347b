"""How much of Celery's own throughput is left when each task takes a lease on a free key.

Both kinds of task run on the same worker in turn, batch by batch, so that the machine's moods strike both; what counts
is the ratio within each pair of batches. The body does nothing: the worst case for the lease.

    python -m benchmarks.overhead --help
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.app import app, locked, plain, use_server
from benchmarks.rows import Row
from tests.support.celery_worker import Worker
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


@click.command()
@click.option("--tasks", default=1000, show_default=True, help="Tasks in a batch.")
@click.option("--pairs", default=7, show_default=True, help="Pairs of batches; the first is a warm-up.")
@click.option("--pool", default="prefork", show_default=True, help="Of Celery's: prefork, threads, gevent, eventlet.")
@click.option("--concurrency", default=4, show_default=True, help="Processes, threads or greenlets of the worker.")
@click.option("--seconds", default=0.0, show_default=True, help="How long each body sleeps.")
@click.option("--ignore-result", is_flag=True, help="Store no results, so that a plain task costs less still.")
@click.option("--at-least", default=0.85, show_default=True, help="Exit with status 1 below this median ratio.")
def main(
    tasks: int, pairs: int, pool: str, concurrency: int, seconds: float, ignore_result: bool, at_least: float
) -> None:
    """Throughput of locked tasks on free keys, as a share of that of the same tasks without a lock."""
    with RedisServer() as server:
        rates = measure(server, tasks, pairs, pool, concurrency, seconds, ignore_result)
    ratio = statistics.median(with_lock / without for without, with_lock in rates)
    report(rates, ratio)
    raise SystemExit(0 if ratio >= at_least else 1)


def measure(
    server: RedisServer,
    tasks: int,
    pairs: int,
    pool: str = "prefork",
    concurrency: int = 4,
    seconds: float = 0.0,
    ignore_result: bool = False,
) -> list[tuple[float, float]]:
    """Tasks a second without and with a lock, batch by batch."""
    use_server(server.url())
    env = {"BENCHMARK_URL": server.url(), **({"BENCHMARK_IGNORE_RESULT": "1"} if ignore_result else {})}
    with Worker("benchmarks.app", pool=pool, concurrency=concurrency, env=env):
        client, results = server.client(), not ignore_result
        return [
            (batch(client, plain, tasks, seconds, results), batch(client, locked, tasks, seconds, results))
            for _ in track(range(pairs), f"{pool}: pairs of batches", transient=True)
        ][1:]


def rows(server: RedisServer, tasks: int, pairs: int) -> list[Row]:
    """The ratios of three pools."""
    found = []
    for pool, concurrency, at_least in (("prefork", 4, 0.95), ("threads", 20, 0.9), ("gevent", 100, 0.9)):
        rates = measure(server, tasks, pairs, pool, concurrency)
        ratios = sorted(with_lock / without for without, with_lock in rates)
        what = f"locked / unlocked tasks, {pool} {concurrency}, free keys"
        found.append(Row(what, statistics.median(ratios), "x", at_least, spread=(ratios[0], ratios[-1])))
    return found


def batch(client: Any, task: Any, tasks: int, seconds: float, results: bool = True) -> float:
    """Tasks a second, from the first start to the last end."""
    return tasks / times(client, task, tasks, seconds, results)[1]


def times(client: Any, task: Any, tasks: int, seconds: float, results: bool = True) -> tuple[float, float]:
    """Seconds to send tasks, and then to run them: until all are acknowledged, and have the result that they store."""
    # Sent while the worker can't take them, so that the sender's speed is not what is measured.
    app.control.cancel_consumer("celery", reply=True, timeout=5, limit=1)
    called = time.perf_counter()
    sent = [task.delay(number, seconds).id for number in range(tasks)]
    started = time.perf_counter()
    app.control.add_consumer("celery")
    keys = [app.backend.get_key_for_task(each) for each in sent]

    def over() -> bool:
        if client.llen("celery") or client.hlen("unacked"):
            return False
        # A message that was taken a moment ago may be in neither of the two.
        return not results or client.exists(*keys) == tasks

    eventually(over, 300, interval=0.002)
    return started - called, time.perf_counter() - started


def report(rates: list[tuple[float, float]], ratio: float) -> None:
    table = Table("pair", "without, tasks/s", "with, tasks/s", "ratio")
    for number, (without, with_lock) in enumerate(rates, 1):
        table.add_row(str(number), f"{without:.0f}", f"{with_lock:.0f}", f"{with_lock / without:.3f}")
    console = Console()
    console.print(table)
    console.print(f"median ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
