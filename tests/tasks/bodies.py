"""What the tasks of the tests do. A test adds the options: ``shop.task("retries", on_contention="skip")``."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from celery import Celery
from celery.exceptions import Ignore, Reject

from celery_locks import LockLost, current_lease
from tests.support.journal import Journal
from tests.support.waiting import eventually

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Body:
    """A function that a task runs.

    Attributes:
        run: The function. It is given the task first.
        options: Those of its tasks, unless a test gives others.
    """

    run: Callable[..., Any]
    options: dict[str, Any]


#: All bodies, by name.
BODIES: dict[str, Body] = {}


def body(**options: Any) -> Callable[[F], F]:
    """Add a body under the name of its function."""

    def add(run: F) -> F:
        BODIES[run.__name__] = Body(run, options)
        return run

    return add


def journal_of(app: Celery) -> Journal:
    return Journal(app.conf.shop_journal)


@body()
def work(self: Any, key: str, seconds: float = 0.0, until: str | None = None) -> str:
    """Write begin and end, and take time in between.

    Args:
        self: The task.
        key: What is written as the key.
        seconds: How long to sleep.
        until: A file to wait for.
    """
    journal, lease, run = journal_of(self.app), current_lease(), uuid.uuid4().hex
    fence = lease.fencing_token if lease else 0
    journal.write("begin", key=key, run=run, task_id=self.request.id, fence=fence, retries=self.request.retries)
    if until is not None:
        eventually(Path(until).exists, timeout=60)
    time.sleep(seconds)
    journal.write("end", key=key, run=run)
    return key


# --- Bodies that retry, and that end in other ways than by returning ---


@body(max_retries=3)
def retries(self: Any, key: str) -> None:
    work(self, key)
    self.retry(countdown=0)


@body(autoretry_for=(ValueError,), retry_kwargs={"countdown": 0, "max_retries": 3})
def autoretries(self: Any, key: str) -> None:
    work(self, key)
    raise ValueError("always")


@body(max_retries=1)
def retries_once(self: Any, key: str) -> int:
    """Retry once, and return how many retries there were. More than one would be refused."""
    if self.request.retries == 0:
        self.retry(countdown=0)
    return int(self.request.retries)


@body()
def retries_later(self: Any, key: str, countdown: float) -> str:
    work(self, key)
    if self.request.retries == 0:
        self.retry(countdown=countdown)
    return key


@body()
def ends_with(self: Any, key: str, how: str) -> None:
    work(self, key)
    raise {"reject": Reject("no"), "ignore": Ignore()}[how]


@body()
def calls_itself(self: Any, key: str) -> str:
    """Retry when the next call is in the queue."""
    work(self, key)
    if self.request.retries == 0:
        self.apply_async((key,), countdown=60)
        self.retry(countdown=0)
    return key


@body()
def replaces_itself(self: Any, key: str) -> None:
    self.replace(self.app.tasks["work(scope='until_executed')"].s(key))


# --- Bodies that show their message ---


@body()
def shows_message(self: Any, key: str) -> dict[str, Any]:
    request = self.request
    work(self, key)
    names = ("expires", "eta", "root_id", "parent_id", "group", "stamps", "stamped_headers", "timelimit", "shadow")
    shown = {name: getattr(request, name) for name in names}
    return {**shown, "headers": request.headers, "delivery": request.delivery_info, "reply_to": request.reply_to}


@body()
def shows_route(self: Any, key: str) -> dict[str, Any]:
    work(self, key)
    delivery = self.request.delivery_info
    return {name: delivery[name] for name in ("exchange", "routing_key", "priority")}


#: The worker's parent: this runs before its children are made.
_PARENT = os.getpid() if "worker" in sys.argv else None


def key_for_children(key: str, seconds: float = 0.0, until: str | None = None) -> str:
    """Make a key, but not in a worker's parent."""
    if os.getpid() == _PARENT:
        raise RuntimeError("no key here")
    return key


@body(key=key_for_children)
def has_key_in_children(self: Any, key: str) -> str:
    return work(self, key)


# --- Bodies that lose their lease ---

#: Far longer than any test waits: a body that is stopped never comes to the end of it.
LONG = 60.0
#: Short enough to be repeated.
SHORT = 0.1


def loop(seconds: float = LONG) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def naps(seconds: float = LONG) -> None:
    """Sleep often, for a short time each."""
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
    held = threading.Lock()
    held.acquire()
    held.acquire(timeout=seconds)


def event(seconds: float = LONG) -> None:
    threading.Event().wait(seconds)


#: In what a body may be busy when it is stopped, by name.
BLOCKS: dict[str, Callable[..., None]] = {f.__name__: f for f in (loop, naps, sleep, recv, lock, event)}


def block(task: Any, key: str, how: str = "") -> None:
    """Write ``begin`` with the fence, block, and write ``after`` if the block ended."""
    journal, lease = journal_of(task.app), current_lease()
    journal.write("begin", key=key, run=key, task_id="", fence=lease.fencing_token if lease else 0, retries=0)
    if how:
        BLOCKS[how]()
    journal.write("after", key=key)


@body(ttl=1.5)
def swallows_errors(self: Any, key: str, seconds: float) -> str:
    try:
        return work(self, key, seconds)
    except Exception:
        return "swallowed"


@body(ttl=1.5)
def blocks(self: Any, key: str, how: str) -> str:
    try:
        block(self, key, how)
    except Exception:
        return "swallowed"
    return "never stopped"


@body(ttl=1.5)
def swallows_all(self: Any, key: str, how: str) -> str:
    try:
        block(self, key, how)
    except BaseException as error:
        journal_of(self.app).write("saw", key=key, is_exception=isinstance(error, Exception))
    return "swallowed"


@body(ttl=1.5)
def wraps_the_error(self: Any, key: str, how: str) -> None:
    try:
        block(self, key, how)
    except BaseException as error:
        raise ValueError("a driver's own error") from error


@body(ttl=1.5)
def cleans_up(self: Any, key: str, how: str) -> None:
    try:
        block(self, key, how)
    finally:
        time.sleep(0.1)
        journal_of(self.app).write("cleaned", key=key)


@body(ttl=1.5, autoretry_for=(LockLost,), retry_kwargs={"countdown": 0, "max_retries": 3})
def retries_when_lost(self: Any, key: str, how: str) -> str:
    if not self.request.retries:
        block(self, key, how)
    return f"run {self.request.retries}"


def boot_time() -> float:
    """Return the system's clock that goes on while processes, or the machine, are stopped."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@body(ttl=1.5, on_lost="signal")
def reports_loss_after_stop(self: Any, key: str) -> dict[str, Any]:
    """Run until the process was stopped for longer than the lease lives, and return what the lease knew then."""
    lease = self.lease
    before = boot_time()  # it may be stopped from the first sign of life on
    block(self, key)
    while (at := boot_time()) - before < lease.ttl:
        before = at
    lost, held, left = lease.lost, lease.held, lease.remaining()
    try:
        lease.check()
    except LockLost as error:
        return {"lost": lost, "held": held, "left": left, "reason": error.reason}
    return {}


@body(ttl=1.5, on_lost="signal")
def checks(self: Any, key: str, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        self.lease.check()
        time.sleep(0.01)
    return "never noticed"


@body(ttl=1.5)
def spins(self: Any, key: str, seconds: float, checks: bool = False) -> str:
    """Keep the processor busy, and in a pool of greenlets the hub from running."""
    block(self, key)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if checks:
            self.lease.check()
    self.lease.check()
    return "spun"


@body(ttl=1.5)
def freezes(self: Any, key: str, seconds: float, ticking: bool) -> str:
    """Let time pass that is frozen, or moved."""
    from tests.support.frozen_time import frozen_time  # imports much that no other worker needs

    block(self, key)
    with frozen_time(ticking):
        threading.Event().wait(seconds)
        self.lease.check()
    return "frozen"


@body(ttl=1.5)
def forks(self: Any, key: str, seconds: float) -> int:
    """Fork, and return what the child found out after some seconds: 0 if nothing was reported there."""
    block(self, key)
    reported: list[Any] = []
    self.lease.on_lost(lambda *lost: reported.append(lost))
    pid = os.fork()
    if pid == 0:
        time.sleep(seconds)
        lost = self.lease.lost  # as far as it knows: it hears of no renewal
        os._exit(len(reported) + (0 if lost else 2))
    status = os.waitpid(pid, 0)[1]
    self.lease.check()
    return os.waitstatus_to_exitcode(status)


@body(ttl=1.5)
def sees_its_own(self: Any, key: str, seconds: float) -> list[str]:
    """Return the keys of all leases that the run saw."""
    end, seen = time.monotonic() + seconds, set()
    while time.monotonic() < end:
        seen |= {self.lease.key, current_lease().key, self.request.args[0]}  # type: ignore[union-attr]
        time.sleep(0.001)
    return sorted(seen)


@body(ttl=1.5)
def runs_inner(self: Any, key: str, inner: str, how: str) -> list[Any]:
    """Run another task eagerly."""
    result = self.app.tasks["blocks"].apply((inner, how))
    journal_of(self.app).write("inner", key=key, state=result.state, error=type(result.result).__name__)
    time.sleep(0.1)
    return [result.state, self.lease.held]


@body(ttl=1.5)
def calls_inner(self: Any, key: str, inner: str, how: str) -> str:
    """Call another task like a function."""
    return str(self.app.tasks["blocks"](inner, how))


# --- Bodies that end their process, or are there to be ended ---

#: So long that a key which is free soon was released: its lease did not expire.
LONG_TTL = 120


def spin() -> None:
    while True:
        pass


#: What a body does to its own process.
DEATHS: dict[str, Callable[[], object]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: ctypes.string_at(0),
    "os._exit": lambda: os._exit(3),
    "loop": spin,
    # Holds the GIL for ever: no handler of a signal runs, nor any thread.
    "GIL": lambda: deque(itertools.count(), maxlen=0),
}


@body(ttl=LONG_TTL)
def dies(self: Any, key: str, how: str = "", seconds: float = 0.0, until: str | None = None) -> str:
    """Do something to the process, or sleep, or wait for a file."""
    if how in DEATHS:
        lease, request = current_lease(), self.request
        fence = lease.fencing_token if lease else 0
        journal_of(self.app).write("begin", key=key, run=request.id, task_id=request.id, fence=fence)
        DEATHS[how]()
    return work(self, key, seconds, until)


@body(ttl=LONG_TTL)
def dies_once(self: Any, key: str, marker: str) -> str:
    """Die in the first run."""
    work(self, key)
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return key
