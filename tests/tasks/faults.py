"""Ways in which a run ends that was to go on, and what is seen of each: for tests, and for a table in the docs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from celery.result import AsyncResult

from celery_locks.tasks.worker.reaper import CHECK_OTHERS_SECONDS
from celery_locks.testing.local.processes import alive
from tests.support.celery_worker import Worker
from tests.support.waiting import eventually
from tests.tasks.bodies import LONG_TTL
from tests.tasks.conftest import Shop

SOON = 100
#: Those of Celery that are installed here.
POOLS = ("prefork", "solo", "threads", *(pool for pool in ("gevent", "eventlet") if importlib.util.find_spec(pool)))
#: Seconds that a body gets in the soft shutdown.
SOFT = 1


@dataclass(frozen=True)
class Fault:
    """A way to end.

    Attributes:
        name: What happens.
        pools: In which pools it is tried.
        strike: Makes it happen to a run that has begun; ``None`` where the body itself does.
        how: What the body does, if it does not just sleep.
        seconds: How long it sleeps.
        options: Those of ``apply_async``.
        environment: Variables of the worker.
        within: The seconds from the fault within which the key is free.
        after_death: Whether it may only be free when the process is dead; else the body may have ended before.
        ttl: The lease's seconds.
        neighbour: Whether there is another worker, which serves another queue.
    """

    name: str
    pools: Sequence[str] = ("prefork",)
    strike: Callable[[Shop, Worker, AsyncResult, int], object] | None = None
    how: str = ""
    seconds: float = 100
    options: tuple[tuple[str, Any], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    within: float = 2
    after_death: bool = True
    ttl: float = LONG_TTL
    neighbour: bool = False


@dataclass(frozen=True)
class Seen:
    """What was seen.

    Attributes:
        state: The state of the result in the end.
        error: Its error's class, if it has one.
        free_after: Seconds from the fault until the key was free.
        after_death: Seconds from the process' death until the key was free; ``None`` when it lived on.
        body_ended: Whether the body came to its end.
    """

    state: str
    error: str
    free_after: float
    after_death: float | None
    body_ended: bool


def kill_child(shop: Shop, worker: Worker, result: AsyncResult, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def terminate_with(name: str) -> Callable[..., None]:
    return lambda shop, worker, result, pid: result.revoke(terminate=True, signal=name)


def stop_with(sig: int) -> Callable[..., None]:
    return lambda shop, worker, result, pid: worker.kill(sig)


def kill_all(shop: Shop, worker: Worker, result: AsyncResult, pid: int) -> None:
    worker.kill()


FAULTS = (
    Fault("`SIGKILL` of the child (OOM killer)", strike=kill_child),
    Fault("`SIGSEGV` in the body", how="SIGSEGV"),
    Fault("`os._exit()` in the body", how="os._exit"),
    Fault("hard time limit, Python code", how="loop", options=(("time_limit", 1),), within=1 + 2, after_death=False),
    Fault("hard time limit, C code that holds the GIL", how="GIL", options=(("time_limit", 1),), within=1 + 2),
    Fault("soft time limit", how="loop", options=(("soft_time_limit", 1),), within=1 + 2, after_death=False),
    Fault("`revoke(terminate=True)`, `SIGTERM`", strike=terminate_with("SIGTERM"), after_death=False),
    Fault("`revoke(terminate=True)`, `SIGKILL`", strike=terminate_with("SIGKILL")),
)
#: Long enough to be cut short, and short enough to be waited for where it isn't.
BODY = 4.0
SHUTDOWNS = (
    Fault("warm shutdown (`SIGTERM`)", POOLS, stop_with(signal.SIGTERM), within=BODY, after_death=False, seconds=BODY),
    Fault("cold shutdown (`SIGQUIT`)", POOLS, stop_with(signal.SIGQUIT), within=BODY, after_death=False, seconds=BODY),
    Fault(
        f"soft shutdown of {SOFT} s (`SIGQUIT`)",
        POOLS,
        stop_with(signal.SIGQUIT),
        environment=(("SHOP_SOFT", str(SOFT)),),
        within=BODY,
        after_death=False,
        seconds=BODY,
    ),
    Fault("`SIGKILL` of the whole worker, `ttl` 3 s", POOLS, kill_all, within=3 + 1, ttl=3),
    Fault("the same, another worker on the machine", POOLS, kill_all, within=CHECK_OTHERS_SECONDS + 1, neighbour=True),
)


def watch(shop: Shop, worker: Worker, fault: Fault, key: str, patience: float = 0) -> Seen:
    """Runs a task, has the fault happen to it, and looks when the key is free.

    Args:
        shop: Where it runs.
        worker: The one worker there.
        fault: What happens.
        key: The key.
        patience: For how many seconds to wait for the result: a worker that died tells nobody.

    Raises:
        AssertionError: The key was free while its process lived that must be dead before, or never.
    """
    result = shop.task("dies", ttl=fault.ttl).apply_async((key, fault.how, fault.seconds), **dict(fault.options))
    begin = eventually(lambda: shop.journal.entries("begin", key=key), SOON)[0]
    pid, lock, struck = begin["pid"], shop.lock(key), begin["time"]
    if fault.strike is not None:
        assert lock.locked()
        struck = time.monotonic()
        fault.strike(shop, worker, result, pid)
    died = None
    while True:
        locked = lock.locked()
        dead = not alive(pid)  # looked at after the lock: dead before it was free, it is dead now
        now = time.monotonic()
        died = now if dead and died is None else died
        if not locked or now > struck + 60:
            break
        time.sleep(0.002)
    assert not locked, f"still held after a minute: {fault.name}\n{worker.logs()[-3000:]}"
    assert dead or not fault.after_death, f"freed while its process lived: {fault.name}"
    after_death = None if died is None else now - died
    ended = any(stretch.end is not None for stretch in shop.journal.stretches(key))
    return Seen(*_outcome(result, patience), now - struck, after_death, ended)


def _outcome(result: AsyncResult, patience: float) -> tuple[str, str]:
    """State and error."""
    with contextlib.suppress(AssertionError):
        eventually(result.ready, patience, interval=0.1)
    return result.state, type(result.result).__name__ if isinstance(result.result, BaseException) else ""
