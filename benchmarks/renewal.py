"""What it costs one process to keep 10,000 leases renewed."""

from __future__ import annotations

import time

from benchmarks.rows import Row
from celery_locks import Locks
from tests.support.servers import RedisServer

LEASES = 10_000


def rows(server: RedisServer, interval: float, cycles: int) -> list[Row]:
    """CPU and round trips of one interval in which all leases are renewed once."""
    client = server.client()
    locks = Locks(server.url())
    leases = [locks.lock(f"renewed:{n}", ttl=6 * interval, renew=interval).acquire() for n in range(LEASES)]
    time.sleep(interval)  # the first cycle brings those together that were taken one after the other
    reads, cpu = _reads(client), time.process_time()
    time.sleep(cycles * interval)
    cpu, reads = time.process_time() - cpu, _reads(client) - reads
    assert all(lease.held for lease in leases)
    client.flushdb()
    return [
        Row("10,000 leases: CPU of a renewal cycle, client", 1000 * cpu / cycles, "ms", at_most=100),
        Row("10,000 leases: times that the server was given something to read", reads / cycles, "a cycle"),
    ]


def _reads(client: object) -> int:
    return int(client.info("stats")["total_reads_processed"])  # type: ignore[attr-defined]
