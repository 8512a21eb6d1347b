"""What becomes of a run and its key when processes end: measured in every pool, once a cell.

``python -m benchmarks.worker_death`` prints the tables of docs/explanation/worker-death.md. It takes some minutes,
since it starts a worker for each cell.
"""

from __future__ import annotations

import uuid

from tests.tasks.conftest import shared_shop
from tests.tasks.faults import BODY, FAULTS, POOLS, SHUTDOWNS, Fault, Seen, watch

#: Seconds to wait for a result: Celery takes its time to find out that a child was lost.
PATIENCE = 12


def main() -> None:
    print("In the prefork pool; limits are 1 s from the begin of the run:\n")
    row("what happens to a child", "key free after", "the result")
    row(*["---"] * 3)
    for fault in FAULTS:
        seen = look(fault, "prefork")
        died = "" if seen.after_death is None else f", {max(seen.after_death, 0.0):.2f} s after its death"
        row(fault.name, f"{seen.free_after:.2f} s{died}", result(seen))
    print(f"\nIn every pool, to a body of {BODY:g} s:\n")
    row("what happens to the worker", *POOLS)
    row(*["---"] * (1 + len(POOLS)))
    for fault in SHUTDOWNS:
        row(fault.name, *(cell(look(fault, pool)) for pool in POOLS))


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def look(fault: Fault, pool: str) -> Seen:
    with shared_shop() as shop:
        worker = shop.start_worker(pool=pool, env=dict(fault.environment))
        if fault.neighbour:
            shop.start_worker(pool="solo", queues=["another"])
        return watch(shop, worker, fault, uuid.uuid4().hex, PATIENCE)


def cell(seen: Seen) -> str:
    ended = ", the body ended" if seen.body_ended else ""
    return f"{seen.free_after:.2f} s{ended}; {result(seen)}"


def result(seen: Seen) -> str:
    return f"`{seen.error or seen.state}`"


if __name__ == "__main__":
    main()
