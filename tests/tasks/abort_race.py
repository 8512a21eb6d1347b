"""A program: bodies that end at the moment at which their lease is lost, many times, and what was hit by the aborts.

    python -m tests.tasks.abort_race signal|thread|gevent|eventlet COUNT [unguarded] [nested]

Prints a JSON object: how many bodies ``ended``, how many were ``stopped``, and how often an abort landed ``outside``.
``unguarded`` leaves out what keeps aborts in their bodies: it shows that the race is one. ``nested`` has a body within
each body, both of whose leases are lost.
"""

from __future__ import annotations

import sys

if sys.argv[1] == "gevent":
    from gevent import monkey

    monkey.patch_all()
elif sys.argv[1] == "eventlet":
    import eventlet

    eventlet.monkey_patch()

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from celery_locks import Lease, LockLost
from celery_locks._runtime import threads
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.types import Claim
from celery_locks.tasks.abort import Aborted, guard_for
from celery_locks.tasks.abort.greenlet import GreenletGuard
from celery_locks.tasks.abort.signal import SignalGuard
from celery_locks.tasks.abort.thread import ThreadGuard

#: Seconds that a body takes, and that the loss comes after its begin, at most.
WINDOW = 0.00015

_numbers = itertools.count()


class Thief:
    """A real thread that loses the leases it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[Lease, float]] = []
        self.news = threads.new_lock()
        self.news.acquire()
        threads.start(self.run, "thief")

    def lose(self, lease: Lease, at: float) -> None:
        self.given.append((lease, at))
        with suppress(RuntimeError):  # it has news already
            self.news.release()

    def run(self) -> None:
        while True:
            self.news.acquire()
            while self.given:
                lease, at = self.given.pop()
                wait_until(lambda at=at: time.perf_counter() >= at, lambda: None)  # type: ignore[misc]
                lease._lose("stolen")


def race(thief: Thief, dice: random.Random, pause: Callable[[], object], outcomes: Counter[str], depth: int) -> None:
    claim = Claim("name", f"token {next(_numbers)}", "owner", 60)
    lease = Lease(MemoryStore(), claim, "key", 1, time.monotonic())
    guard = guard_for(lease)
    start = time.perf_counter()
    ends, lost = start + dice.random() * WINDOW, start + dice.random() * WINDOW
    thief.lose(lease, lost)

    def body() -> None:
        if depth:
            race(thief, dice, pause, outcomes, depth - 1)
        wait_until(lambda: time.perf_counter() >= ends, pause)

    try:
        guard.run(body)
        outcomes["ended"] += 1
    except LockLost:
        outcomes["stopped"] += 1
    wait_until(lambda: lease._loss_reported and time.perf_counter() >= ends + WINDOW, pause)


def wait_until(condition: Callable[[], bool], pause: Callable[[], object]) -> None:
    while not condition():
        pause()


def main(kind: str, count: int, guarded: bool, depth: int) -> None:
    if not guarded:
        for guard in (SignalGuard, ThreadGuard, GreenletGuard):
            guard._disarm = guard._detach = lambda self: None  # type: ignore[attr-defined, method-assign]
        SignalGuard._is_called_from = lambda self, frame: True  # type: ignore[method-assign]
    sys.setswitchinterval(0.00001)
    outcomes: Counter[str] = Counter(ended=0, stopped=0, outside=0)
    thief, dice = Thief(), random.Random(9)
    pause = (lambda: time.sleep(0)) if kind in ("gevent", "eventlet") else lambda: None
    for _ in range(count):
        try:
            race(thief, dice, pause, outcomes, depth)
        except Aborted:  # noqa: PERF203
            outcomes["outside"] += 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    import logging

    logging.disable()
    arguments = (sys.argv[1], int(sys.argv[2]), "unguarded" not in sys.argv, int("nested" in sys.argv))
    if sys.argv[1] == "thread":
        thread = threading.Thread(target=main, args=arguments)
        thread.start()
        thread.join()
    else:
        main(*arguments)
