"""How long after the loss of its lease is noticed a body is stopped, by pool and by what the body is doing.

python -m benchmarks.abort --help
"""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from benchmarks.abort_tasks import blocked
from benchmarks.app import use_server
from tests.support.celery_worker import Worker
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.tasks.bodies import SHORT

POOLS = ("prefork", "solo", "threads", "gevent", "eventlet")
HOWS = ("loop", "sleep", "recv", "lock")
#: Nothing can stop a greenlet that never waits.
NEVER = {("gevent", "loop"), ("eventlet", "loop")}


@click.command()
@click.option("--aborts", default=200, show_default=True, help="How many for each pool and body.")
@click.option("--pools", default=",".join(POOLS), show_default=True, help="Which, in this order.")
def main(aborts: int, pools: str) -> None:
    """Latency of aborts."""
    table = Table("pool", *HOWS, title=f"from the notice to the body, ms: p50 / p95 / max of {aborts}")
    with RedisServer() as server:
        use_server(server.url())
        for pool in pools.split(","):
            with Worker("benchmarks.abort_tasks", pool=pool, concurrency=1, env={"BENCHMARK_URL": server.url()}):
                row = ["never" if (pool, how) in NEVER else measure(server, how, aborts) for how in HOWS]
            table.add_row(pool, *row)
    console = Console(width=140)
    console.print(table)
    console.print(f"A sleep, recv or wait for a lock is repeated every {SHORT * 1000:g} ms.")


def measure(server: RedisServer, how: str, aborts: int) -> str:
    client = server.client()
    client.delete(f"abort:{how}")
    for number in range(aborts):
        blocked.delay(number, how)
    eventually(lambda: client.llen(f"abort:{how}") >= aborts, 60 + aborts)
    times = sorted(float(entry) for entry in client.lrange(f"abort:{how}", 0, -1))
    at = [times[min(int(len(times) * share), len(times) - 1)] * 1000 for share in (0.5, 0.95, 1)]
    return " / ".join(f"{value:.1f}" for value in at)


if __name__ == "__main__":
    main()
