"""Bodies that are stopped: blocked in all the ways there are, and what some of them make of it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery

from celery_locks import LockLost, current_lease
from tests.support.frozen_time import frozen_time
from tests.support.journal import Journal

#: Far longer than any test waits: a body that is stopped never comes to the end of it.
LONG = 60.0
#: Short enough to be repeated.
SHORT = 0.1


def loop(seconds: float = LONG) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def naps(seconds: float = LONG) -> None:
    """A loop that sleeps in between."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


def sleep(seconds: float = LONG) -> None:
    time.sleep(seconds)


def recv(seconds: float = LONG) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(seconds)
        with suppress(TimeoutError):
            one.recv(1)


def lock(seconds: float = LONG) -> None:
    taken = threading.Lock()
    taken.acquire()
    taken.acquire(timeout=seconds)


def nothing() -> None:
    pass


def now() -> float:
    """The system's clock that goes on while processes, or the machine, are stopped."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def event(seconds: float = LONG) -> None:
    threading.Event().wait(seconds)


BLOCKS: dict[str, Callable[..., None]] = {f.__name__: f for f in (loop, naps, sleep, recv, lock, event)}


def define_aborts(app: Celery, base: type, journal: Journal) -> None:
    """Adds the tasks; each writes ``begin`` with its fence, and ``after`` if it goes on after the block."""
    options = {"bind": True, "shared": False, "base": base, "lock_key": "<key>", "lock_ttl": 1.5}

    def block(key: str, how: str) -> None:
        lease = current_lease()
        journal.write("begin", key=key, run=key, task_id="", fence=lease.fencing_token if lease else 0, retries=0)
        BLOCKS.get(how, nothing)()
        journal.write("after", key=key)

    @app.task(name="blocks", **options)
    def blocks(self: Any, key: str, how: str) -> str:
        try:
            block(key, how)
        except Exception:
            return "swallowed"
        return "never stopped"

    @app.task(name="swallows_all", **options)
    def swallows_all(self: Any, key: str, how: str) -> str:
        try:
            block(key, how)
        except BaseException as error:
            journal.write("saw", key=key, is_exception=isinstance(error, Exception))
        return "swallowed"

    @app.task(name="wraps_it", **options)
    def wraps_it(self: Any, key: str, how: str) -> None:
        try:
            block(key, how)
        except BaseException as error:
            raise ValueError("a driver's own error") from error

    @app.task(name="cleans_up", **options)
    def cleans_up(self: Any, key: str, how: str) -> None:
        try:
            block(key, how)
        finally:
            time.sleep(0.1)
            journal.write("cleaned", key=key)

    @app.task(name="tries_again", autoretry_for=(LockLost,), retry_kwargs={"countdown": 0, "max_retries": 3}, **options)
    def tries_again(self: Any, key: str, how: str) -> str:
        if not self.request.retries:
            block(key, how)
        return f"run {self.request.retries}"

    @app.task(name="told_after_a_stop", **options, lock_on_lost="signal")
    def told_after_a_stop(self: Any, key: str) -> dict[str, Any]:
        """Runs until its process was stopped for longer than its lease lives, and says what it knew at once."""
        lease = self.lease
        before = now()  # it may be stopped from the first sign of life on
        block(key, "nothing")
        while (at := now()) - before < lease.ttl:
            before = at
        lost, held, left = lease.lost, lease.held, lease.remaining()
        try:
            lease.check()
        except LockLost as error:
            return {"lost": lost, "held": held, "left": left, "reason": error.reason}
        return {}

    @app.task(name="spins", **options)
    def spins(self: Any, key: str, seconds: float, checks: bool = False) -> str:
        """Keeps the processor busy, and in a pool of greenlets the hub from running."""
        block(key, "nothing")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if checks:
                self.lease.check()
        self.lease.check()
        return "spun"

    @app.task(name="freezes", **options)
    def freezes(self: Any, key: str, seconds: float, ticking: bool) -> str:
        """Lets time pass that is frozen, or moved."""
        block(key, "nothing")
        with frozen_time(ticking):
            threading.Event().wait(seconds)
            self.lease.check()
        return "frozen"

    @app.task(name="forks", **options)
    def forks(self: Any, key: str, seconds: float) -> int:
        """Leaves a child alone for so long, and returns what the child found out: 0 if nothing was told there."""
        block(key, "nothing")
        told: list[Any] = []
        self.lease.on_lost(lambda *lost: told.append(lost))
        pid = os.fork()
        if pid == 0:
            time.sleep(seconds)
            lost = self.lease.lost  # as far as it knows: it hears of no renewal
            os._exit(len(told) + (0 if lost else 2))
        status = os.waitpid(pid, 0)[1]
        self.lease.check()
        return os.waitstatus_to_exitcode(status)

    @app.task(name="sees_its_own", **options)
    def sees_its_own(self: Any, key: str, seconds: float) -> list[str]:
        """The keys of all leases that it saw."""
        end, seen = time.monotonic() + seconds, set()
        while time.monotonic() < end:
            seen |= {self.lease.key, current_lease().key, self.request.args[0]}  # type: ignore[union-attr]
            time.sleep(0.001)
        return sorted(seen)

    @app.task(name="runs_inner", **options)
    def runs_inner(self: Any, key: str, inner: str, how: str) -> list[Any]:
        """Runs another one eagerly, within."""
        result = blocks.apply((inner, how))
        journal.write("inner", key=key, state=result.state, error=type(result.result).__name__)
        time.sleep(0.1)
        return [result.state, self.lease.held]

    @app.task(name="calls_plainly", **options)
    def calls_plainly(self: Any, key: str, inner: str, how: str) -> str:
        return str(blocks(inner, how))
