"""How long after its lease is taken by force a run is stopped, by store and by pool; the ttl is 30 s.

python -m benchmarks.replace --help
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

import click
from rich.console import Console
from rich.table import Table

from benchmarks.app import app, use_server
from benchmarks.replace_tasks import endless
from celery_locks import Locks
from celery_locks.stores.types import Granted
from tests.support.celery_worker import Worker
from tests.support.servers import RedisServer
from tests.support.sql_servers import PostgresServer
from tests.support.waiting import eventually

#: Seconds until a run must have begun, or have been stopped: well before the first renewal.
PATIENCE_SECONDS = 9.0


@click.command()
@click.option("--runs", default=100, show_default=True, help="How many are replaced for each store and pool.")
@click.option("--stores", default="redis,postgresql", show_default=True, help="Which, in this order.")
@click.option("--pools", default="prefork", show_default=True, help="Which, in this order.")
def main(runs: int, stores: str, pools: str) -> None:
    """Latency from a replacement to the end of the replaced body."""
    table = Table(
        "store", "pool", "p50", "p95", "max", title=f"from the request to the end of the body, ms; {runs} runs"
    )
    with ExitStack() as servers:
        broker = servers.enter_context(RedisServer())
        use_server(broker.url())
        for store in stores.split(","):
            url = broker.url(db=1) if store == "redis" else servers.enter_context(PostgresServer()).url()
            app.conf.locks_url = url
            env = {"BENCHMARK_URL": broker.url(), "BENCHMARK_STORE": url}
            for pool in pools.split(","):
                with Worker("benchmarks.replace_tasks", pool=pool, concurrency=1, env=env):
                    table.add_row(store, pool, *measure(broker, Locks(url), runs))
    Console(width=100).print(table)


def measure(broker: RedisServer, locks: Locks, runs: int) -> list[str]:
    """Replace runs one after the other. Return p50, p95 and the longest time, in milliseconds."""
    client, times = broker.client(), list[float]()
    for number in range(runs):
        client.delete("replace:begun", "replace:ended")
        endless.delay(number)
        eventually(lambda: client.llen("replace:begun"), PATIENCE_SECONDS, interval=0.002)
        claim = replace(locks.lock(str(number), ttl=30)._new_claim(), replaces=True)
        begun = time.perf_counter()
        assert isinstance(locks.store.acquire(claim), Granted)
        eventually(lambda: client.llen("replace:ended"), 2 * PATIENCE_SECONDS, interval=0.002)
        times.append(float(client.lindex("replace:ended", 0)) - begun)
        locks.store.release(claim.name, claim.token)
    times.sort()
    return [f"{times[min(int(len(times) * share), len(times) - 1)] * 1000:.1f}" for share in (0.5, 0.95, 1)]


if __name__ == "__main__":
    main()
