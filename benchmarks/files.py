"""Pairs a second of several processes on one SQLite file, and how long the slowest take."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from celery_locks import Locks

PROCESSES = 4


def rows(seconds: float) -> list[Row]:
    """What four processes come to, each with a key of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'locks.sqlite'}"
        ends = [context.Pipe() for _ in range(PROCESSES)]
        crew = [context.Process(target=_work, args=(url, seconds, theirs), daemon=True) for _, theirs in ends]
        for process in crew:
            process.start()
        for mine, _ in ends:
            mine.recv()  # it has begun
        for mine, _ in ends:
            mine.send(None)
        times = sorted(each for mine, _ in ends for each in mine.recv())
        for process in crew:
            process.join()
    rate, p99 = len(times) / seconds, 1000 * times[int(len(times) * 0.99)]
    return [
        Row("SQLite, 4 processes: pairs", rate, "pairs/s", at_least=5_000),
        Row("SQLite, 4 processes: a pair, p99", p99, "ms", at_most=20),
    ]


def _work(url: str, seconds: float, pipe: Any) -> None:
    lock, times = Locks(url).lock(f"bench:{id(pipe)}:{time.monotonic_ns()}", ttl=60), []
    lock.acquire().release()
    pipe.send(None)
    pipe.recv()
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        lock.acquire().release()
        times.append(time.perf_counter() - start)
    pipe.send(times)
