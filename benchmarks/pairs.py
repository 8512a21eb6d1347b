"""Pairs of acquire and release of a free lock a second: ours, the limits, and other locks, by turns.

python -m benchmarks.pairs --help
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.rounds import Figure, by_turns
from benchmarks.rows import Row
from benchmarks.sides import limits, node, peers
from tests.support.servers import RedisServer

OURS = "celery-locks"
Make = Callable[[str, str], limits.Pair]


@click.command()
@click.option("--rounds", default=9, show_default=True, help="Rounds that count; one more is a warm-up.")
@click.option("--seconds", default=0.4, show_default=True, help="How long each side runs in a round.")
@click.option("--threads", default=1, show_default=True, help="So many threads of one process, each with its own key.")
@click.option("--processes", default=1, show_default=True, help="So many processes, each with its own key.")
@click.option("--pin/--no-pin", default=True, show_default=True, help="Client and server on one processor.")
def main(rounds: int, seconds: float, threads: int, processes: int, pin: bool) -> None:
    """Pairs of acquire and release a second."""
    with RedisServer() as server:
        figures = measure(server, rounds, seconds, threads, processes, pin)
    report(figures)


def measure(
    server: RedisServer,
    rounds: int,
    seconds: float,
    threads: int = 1,
    processes: int = 1,
    pin: bool = True,
    url: str = "",
) -> dict[str, Figure]:
    """What all sides come to on one server; by TCP, or by another way to it."""
    alone, tcp, url = threads == processes == 1, not url, url or server.url()
    makes: dict[str, Make] = dict(peers.SIDES)
    if alone:
        makes["two EVALSHA, redis-py"] = limits.through_client
    if alone and tcp:
        makes["two EVALSHA, raw socket"] = limits.raw_socket
    with contextlib.ExitStack() as stack:
        if pin:
            stack.enter_context(pinned(server.pid))
        sides = stack.enter_context(crew(makes, url, seconds, processes)) if processes > 1 else {}
        if processes == 1:
            sides = {name: crowd(make, url, seconds, threads) for name, make in makes.items()}
        if alone and tcp and (verrou := node.start(url, stack)):
            sides["Verrou, Node"] = partial(verrou, seconds)
        bar = stack.enter_context(Progress(transient=True))
        task = bar.add_task("rounds", total=len(sides) * (rounds + 1))
        return by_turns(sides, rounds, lambda: bar.advance(task))


@contextlib.contextmanager
def pinned(server: int) -> Iterator[None]:
    """This process and the server on one processor, where the system can do so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    one = {min(before)}
    os.sched_setaffinity(0, one)
    os.sched_setaffinity(server, one)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def rate(pairs: list[limits.Pair], seconds: float) -> float:
    """Pairs a second of some threads together."""
    counts = [0] * len(pairs)
    start = threading.Barrier(len(pairs))

    def loop(number: int) -> None:
        pair, counted = pairs[number], itertools.count(1)
        start.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pair()
            counts[number] = next(counted)

    if len(pairs) == 1:
        loop(0)
    else:
        threads = [threading.Thread(target=loop, args=(number,)) for number in range(len(pairs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(counts) / seconds


def crowd(make: Make, url: str, seconds: float, threads: int) -> Callable[[], float]:
    """What gives the rate of so many threads together."""
    pairs = [make(url, f"bench:{os.getpid()}:{number}") for number in range(threads)]
    return lambda: rate(pairs, seconds)


@contextlib.contextmanager
def crew(
    makes: Mapping[str, Make], url: str, seconds: float, processes: int
) -> Iterator[dict[str, Callable[[], float]]]:
    """What gives each side's rate in so many processes together; each of them can be on any side."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(processes)]
    members = [context.Process(target=_work, args=(makes, url, seconds, theirs), daemon=True) for _, theirs in ends]
    for process in members:
        process.start()

    def ask(name: str) -> float:
        for mine, _ in ends:
            mine.send(name)
        return float(sum(mine.recv() for mine, _ in ends))

    yield {name: partial(ask, name) for name in makes}
    for process in members:
        process.kill()


def _work(makes: Mapping[str, Make], url: str, seconds: float, pipe: Any) -> None:
    pairs = {name: make(url, f"bench:{os.getpid()}:{name}") for name, make in makes.items()}
    while True:
        pipe.send(rate([pairs[pipe.recv()]], seconds))


#: What is asked of ours beside each side, alone on one processor.
ASKED = {
    "two EVALSHA, redis-py": 1.6,
    "redis-py Lock": 2.2,
    "Verrou, Node": 0.7,
    "two EVALSHA, raw socket": 0.45,
    "python-redis-lock": 2.5,
    "sherlock": 2.0,
    "pottery Redlock": 6.0,
}

#: And of many at once.
ASKED_OF_MANY = {"redis-py Lock": 1.5}


def rows(server: RedisServer, rounds: int, seconds: float) -> list[Row]:
    """One thread, by TCP and by a Unix socket; eight threads; eight processes."""
    found, by_socket = [], f"unix://{server.socket_path}"
    crews: tuple[tuple[str, dict[str, Any], bool, Mapping[str, float]], ...] = (
        ("1 thread", {}, True, ASKED),
        ("1 thread, Unix socket", {"url": by_socket}, True, {}),
        ("8 threads", {"threads": 8}, False, ASKED_OF_MANY),
        ("8 processes", {"processes": 8}, False, ASKED_OF_MANY),
    )
    for who, crew, pin, all_asked in crews:
        figures = measure(server, rounds, seconds, pin=pin, **crew)
        ours = figures.pop(OURS)
        found.append(Row(f"pairs, {who}: {OURS}", ours.median, "pairs/s", spread=ours.spread))
        for name, figure in figures.items():
            ratio = ours.over(figure)
            found.append(Row(f"pairs, {who}: ours / {name}", ratio, "x", at_least=all_asked.get(name)))
    return found


def report(figures: dict[str, Figure]) -> None:
    table = Table("side", "pairs/s", "lowest to highest", "celery-locks to it")
    for name, figure in sorted(figures.items(), key=lambda item: -item[1].median):
        low, high = figure.spread
        ratio = figures[OURS].over(figure)
        table.add_row(name, f"{figure.median:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{ratio:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
