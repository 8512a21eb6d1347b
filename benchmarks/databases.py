"""Leases in tables: pairs of acquire and release a second, and how soon who waits on PostgreSQL is woken.

The stores take turns, round by round, so that the machine's moods strike all of them. Each process has its own key.

    python -m benchmarks.databases --help
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.rows import Row
from celery_locks import Lock, Locks
from celery_locks.stores.parking import Parking
from tests.support.celery_worker import ROOT
from tests.support.sql_servers import MariaDBServer, PostgresServer
from tests.support.waiting import eventually

#: Seconds of waiting whose statements are counted.
LISTENED = 10.0


@click.command()
@click.option("--rounds", default=5, show_default=True, help="How often each store has its turn.")
@click.option("--seconds", default=2.0, show_default=True, help="How long each turn takes.")
@click.option("--processes", default="1,4", show_default=True, help="How many processes at once.")
@click.option("--wakes", default=200, show_default=True, help="How many releases are waited for.")
def main(rounds: int, seconds: float, processes: str, wakes: int) -> None:
    """Leases in SQLite, PostgreSQL and MariaDB."""
    console = Console()
    console.print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    with ExitStack() as stack:
        postgresql = stack.enter_context(PostgresServer("-c", "fsync=on"))
        folder = stack.enter_context(TemporaryDirectory())
        stores = {
            "SQLite": f"sqlite:///{folder}/locks.db",
            "PostgreSQL": postgresql.url(),
            "PostgreSQL, prepare=no": postgresql.url(query="prepare=no"),
        }
        if not MariaDBServer.missing():
            mariadb = stack.enter_context(MariaDBServer("--innodb-flush-log-at-trx-commit=1"))
            stores["MariaDB"] = mariadb.url()
        for count in map(int, processes.split(",")):
            console.print(pairs(stores, count, rounds, seconds))
        console.print(waking(postgresql, wakes))
    with PostgresServer("-c", "log_statement=all") as logging:
        console.print(f"statements in {LISTENED:g} s of waiting: {statements(logging)}")


def pairs(stores: dict[str, str], count: int, rounds: int, seconds: float) -> Table:
    """Pairs a second, each round of all stores after another."""
    turns: dict[str, list[list[float]]] = {name: [] for name in stores}
    for _ in track(range(rounds), f"{count} at once", transient=True):
        for name, url in stores.items():
            turns[name].append(_turn(url, count, seconds))
    table = Table(f"{count} at once", "pairs/s", "lowest to highest", "p50, ms", "p99, ms")
    for name, took in turns.items():
        rates = sorted(len(times) / seconds for times in took)
        p50, p99 = (statistics.median(quantile(times, part) for times in took) * 1000 for part in (0.5, 0.99))
        spread = f"{rates[0]:.0f} to {rates[-1]:.0f}"
        table.add_row(name, f"{statistics.median(rates):.0f}", spread, f"{p50:.2f}", f"{p99:.1f}")
    return table


def _turn(url: str, count: int, seconds: float) -> list[float]:
    """How long each pair took."""
    with ExitStack() as stack:
        started = [stack.enter_context(process("pairs", url, f"key {number}", str(seconds))) for number in range(count)]
        for each in started:
            hear(each)
        for each in started:
            tell(each)
        return [float(took) for each in started for took in hear(each).split()]


def rows(rounds: int, seconds: float, wakes: int) -> list[Row]:
    """PostgreSQL, alone and with four processes at once, and how soon who waits on it is woken."""
    found = []
    with PostgresServer("-c", "fsync=on") as server:
        for count in (1, 4):
            turns = [_turn(server.url(), count, seconds) for _ in range(rounds)]
            rates = sorted(len(times) / seconds for times in turns)
            at = f"PostgreSQL, {count} at once"
            found.append(Row(f"{at}: pairs", statistics.median(rates), "pairs/s", spread=(rates[0], rates[-1])))
        delays = woken_after(server, wakes)
    p50, p95 = (quantile(delays, part) * 1000 for part in (0.5, 0.95))
    return [
        *found,
        Row("blocked acquire on PostgreSQL: release to return, p50", p50, "ms"),
        Row("blocked acquire on PostgreSQL: release to return, p95", p95, "ms", at_most=10),
    ]


def waking(server: PostgresServer, times: int) -> str:
    delays = woken_after(server, times)
    p50, p95 = (quantile(delays, part) * 1000 for part in (0.5, 0.95))
    return f"woken after p50 {p50:.1f} ms, p95 {p95:.1f} ms, longest {max(delays) * 1000:.1f} ms ({times} times)"


def woken_after(server: PostgresServer, times: int) -> list[float]:
    """Seconds from just before the release to the return of a blocked ``acquire`` in another process."""
    lock, delays = Locks(server.url(), prefix="benchmark").lock("key", ttl=60, renew=False), []
    with process("wait", server.url(), "key") as waiter:
        hear(waiter)
        for number in track(range(times), "wakes", transient=True):
            lease = lock.acquire()
            tell(waiter)
            eventually(lambda: in_line(lock), 60, interval=0.005)
            time.sleep(0.02 * (1 + number % 3))  # as long as somebody works; it waits by then
            released = time.monotonic()
            lease.release()
            delays.append(float(hear(waiter)) - released)
    return delays


def statements(server: PostgresServer) -> int:
    """How many statements the server gets from one who waits, by its own log."""
    lock = Locks(server.url(), prefix="benchmark").lock("key", ttl=60, renew=False)
    lease = lock.acquire()
    with process("wait", server.url(), "key") as waiter:
        hear(waiter)
        tell(waiter)
        eventually(lambda: in_line(lock), 60)
        time.sleep(2.0)  # by then it has tried whether notices come
        before = logged(server)
        time.sleep(LISTENED)
        count = logged(server) - before
        lease.release()
        hear(waiter)
    return count


def in_line(lock: Lock) -> bool:
    """Whether somebody waits for it."""
    parking = lock._store
    assert isinstance(parking, Parking)
    return parking.waiting(lock._name) == 1


def logged(server: PostgresServer) -> int:
    """How many statements the server has logged."""
    return sum("statement: " in line or "execute " in line for line in server.log().splitlines() if "LOG: " in line)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, see `databases_process`."""
    argv = [sys.executable, "-m", "benchmarks.databases_process", *arguments]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        yield started
        assert started.stdin is not None
        started.stdin.close()


def tell(process: subprocess.Popen[str]) -> None:
    """Lets it go on."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    """The next line that it says."""
    assert process.stdout is not None
    return process.stdout.readline()


def quantile(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


if __name__ == "__main__":
    main()
