"""What becomes of a run and its key when things end: a row for each fault, a column for each pool, measured.

``python -m benchmarks.worker_death`` prints the table of docs/explanation/worker-death.md. It takes some minutes: a
worker is started for each cell.
"""

from __future__ import annotations

import uuid

from tests.support.servers import RedisServer
from tests.tasks.conftest import Shop
from tests.tasks.faults import FAULTS, POOLS, SHUTDOWNS, Fault, Seen, watch

#: Seconds to wait for a result: Celery takes its time to find out that a child was lost.
PATIENCE = 12


def main() -> None:
    print(f"| what happens | {' | '.join(POOLS)} |\n|---|{'---|' * len(POOLS)}")
    for fault in (*FAULTS, *SHUTDOWNS):
        cells = [cell(fault, pool) if pool in fault.pools else "" for pool in POOLS]
        print(f"| {fault.name} | {' | '.join(cells)} |", flush=True)


def cell(fault: Fault, pool: str) -> str:
    with RedisServer() as server:
        shop = Shop(SHOP_URL=server.url())
        with shop.stack:
            worker = shop.start_worker(pool=pool, env=dict(fault.environment), arguments=fault.arguments)
            if fault.neighbour:
                shop.start_worker(pool="solo", queues=["another"])
            return words(watch(shop, worker, fault, uuid.uuid4().hex, PATIENCE))


def words(seen: Seen) -> str:
    when = f"{seen.free_after:.2f} s"
    if seen.body_ended:
        when += ", the body ended"
    elif seen.after_death is not None:
        when += f", {max(seen.after_death, 0.0):.2f} s after the death"
    return f"{when}; {f'`{seen.error}`' if seen.error else seen.state}"


if __name__ == "__main__":
    main()
