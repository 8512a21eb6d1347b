"""What each fault does. All of them heal what they have broken before they return."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from celery_locks.stores.redis import scripts
from tests.chaos.clock import ShiftedClock
from tests.chaos.fleet import Fleet
from tests.chaos.schedule import Step
from tests.chaos.store import Store
from tests.support.waiting import eventually

#: Seconds that a wall clock is set off, either way: ten times the ttl. Not more, since Celery's countdowns are moments
#: of the wall clock: a task would wait for as long.
SHIFT = 20
#: How many replies are dropped at most.
DROPS = 6

_SCRIPTS = {
    "acquire": (scripts.ACQUIRE, scripts.TAKE, scripts.ENTER, scripts.PARK),
    "renew": (scripts.RENEW, scripts.RENEW_MANY),
    "release": (scripts.RELEASE, scripts.END_RUN),
}


@dataclass(frozen=True)
class Arena:
    """What faults break.

    Attributes:
        store: The store under test.
        fleet: Workers, by the names prefork, shifted (prefork too) and threads.
        clock: That of the worker named shifted.
        pause: Waits for so many seconds, or until the run is given up.
    """

    store: Store
    fleet: Fleet
    clock: ShiftedClock
    pause: Callable[[float], object]


def strike(arena: Arena, step: Step) -> None:
    """Does what a step says, and returns when it is over."""
    FAULTS[step.kind](arena, step)


# --- The network ---


def _network(begin: Callable[[Arena, Step], None], arena: Arena, step: Step) -> None:
    begin(arena, step)
    try:
        arena.pause(step.seconds)
    finally:
        arena.store.proxy.heal()


def _drop(what: str, arena: Arena, step: Step) -> None:
    digests = [script.sha for script in _SCRIPTS[what]]
    arena.store.proxy.drop_reply(1 + int(step.pick * DROPS), command="EVALSHA", holding=digests)


# --- Processes ---


def _kill_child(arena: Arena, step: Step) -> None:
    arena.fleet.kill(_child(arena, step))
    arena.pause(step.seconds)


def _kill_parent(arena: Arena, step: Step) -> None:
    """Its children die with it, where the system has a signal for that; else they end what they have begun."""
    name = _prefork(arena, step)
    worker = arena.fleet.worker(name)
    pids = arena.fleet.say_quit(worker)
    arena.fleet.kill(worker.pid)
    arena.fleet.start(name)
    arena.pause(step.seconds)
    arena.fleet.bury(name, worker, pids)


def _kill_threads_worker(arena: Arena, step: Step) -> None:
    worker = arena.fleet.worker("threads")
    arena.fleet.kill(worker.pid)
    arena.pause(step.seconds)
    arena.fleet.start("threads")
    arena.fleet.bury("threads", worker, [worker.pid])


def _stop(victim: Callable[[Arena, Step], int], arena: Arena, step: Step) -> None:
    pid = victim(arena, step)
    os.kill(pid, signal.SIGSTOP)
    try:
        arena.pause(step.seconds)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _restart(sig: signal.Signals, arena: Arena, step: Step) -> None:
    name = arena.fleet.ready(("prefork", "shifted", "threads"), step.pick)
    worker = arena.fleet.end(name, sig)
    arena.fleet.start(name)
    arena.fleet.bury(name, worker)


def _shift_clock(arena: Arena, step: Step) -> None:
    if arena.clock.missing:  # said aloud in the closing lines
        return
    arena.clock.shift(SHIFT if step.pick < 0.5 else -SHIFT)
    try:
        arena.pause(step.seconds)
    finally:
        arena.clock.shift(0)


def _prefork(arena: Arena, step: Step) -> str:
    return arena.fleet.ready(("prefork", "shifted"), step.pick)


def _parent(arena: Arena, step: Step) -> int:
    return arena.fleet.worker(_prefork(arena, step)).pid


def _threads(arena: Arena, step: Step) -> int:
    return arena.fleet.worker("threads").pid


def _child(arena: Arena, step: Step) -> int:
    children = eventually(arena.fleet.worker(_prefork(arena, step)).child_pids, 30, "the worker has no children")
    return children[int(step.pick * 2 % 1 * len(children))]


# --- The store ---


def _restart_store(arena: Arena, step: Step, keep_data: bool) -> None:
    arena.store.restart(partial(arena.pause, step.seconds), keep_data=keep_data)


def _pause_clients(arena: Arena, step: Step) -> None:
    arena.store.pause_clients(step.seconds)
    arena.pause(step.seconds)


def _fail_over(arena: Arena, step: Step) -> None:
    arena.store.await_replica()
    arena.store.fail_over(partial(arena.pause, step.seconds), kill=step.pick < 0.5)


FAULTS: dict[str, Callable[[Arena, Step], None]] = {
    "refuse": partial(_network, lambda arena, step: arena.store.proxy.refuse()),
    "hang": partial(_network, lambda arena, step: arena.store.proxy.hang()),
    "delay": partial(_network, lambda arena, step: arena.store.proxy.delay(0.02 + step.pick * 0.3)),
    "cut": partial(_network, lambda arena, step: arena.store.proxy.cut()),
    "drop reply of acquire": partial(_network, partial(_drop, "acquire")),
    "drop reply of renew": partial(_network, partial(_drop, "renew")),
    "drop reply of release": partial(_network, partial(_drop, "release")),
    "half-open": partial(_network, lambda arena, step: arena.store.proxy.half_open()),
    "kill child": _kill_child,
    "kill parent": _kill_parent,
    "kill threads worker": _kill_threads_worker,
    "stop child": partial(_stop, _child),
    "stop parent": partial(_stop, _parent),
    "stop threads worker": partial(_stop, _threads),
    "warm restart": partial(_restart, signal.SIGTERM),
    "cold restart": partial(_restart, signal.SIGQUIT),
    "shift clock": _shift_clock,
    "restart with data": partial(_restart_store, keep_data=True),
    "restart without data": partial(_restart_store, keep_data=False),
    "flush all": lambda arena, step: arena.store.flush_all(),
    "flush scripts": lambda arena, step: arena.store.flush_scripts(),
    "kill clients": lambda arena, step: arena.store.kill_clients(),
    "pause clients": _pause_clients,
    "failover": _fail_over,
}
