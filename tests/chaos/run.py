"""A run: workers at work, faults by schedule, and all that was sent ended at last."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from celery.utils import uuid

from celery_locks import LockError
from celery_locks.testing.local import processes
from tests.chaos.app import KEYS, TTL, make_app
from tests.chaos.clock import ShiftedClock
from tests.chaos.faults import Arena, strike
from tests.chaos.fleet import Fleet, Post
from tests.chaos.history import History, Reader
from tests.chaos.schedule import LANES, Step
from tests.chaos.store import Store
from tests.support import rabbitmq
from tests.support.servers import RedisServer

#: Tasks that are sent and have not ended: enough that they meet, few enough that each comes to its turn.
OPEN = 40
#: Seconds in which not one task ends, with all faults healed, after which the workers are started anew.
STUCK = 45.0
#: Seconds after the last fault within which all tasks must have ended.
DRAIN = 600.0


class Run:
    """A run of the suite.

    Args:
        steps: Its faults.
        seconds: After so many, a lane that is late begins no more faults, but those of its first time through.
        seed: For what is sent.
        folder: An empty one, for the history.
    """

    def __init__(self, steps: list[Step], seconds: float, seed: int, folder: Path) -> None:
        self.steps = steps
        self.seconds = seconds
        self.folder = folder
        self.history = History(folder)
        self._reader = Reader(folder)
        self._chance = random.Random(f"{seed} tasks")
        self._open: set[str] = set()
        self._given_up = threading.Event()
        self._over = threading.Event()
        #: How often all workers had to be started anew at the end, for messages that they kept to themselves.
        self.rescues = 0
        #: How many replies of the store were dropped.
        self.dropped = 0

    def go(self) -> bool:
        """Runs all of it. Returns whether the broker may lose messages when workers are killed."""
        with ExitStack() as stack:
            scratch = processes.make_folder()
            stack.callback(processes.remove_folder, scratch)
            broker, may_lose = stack.enter_context(_broker())
            store = stack.enter_context(Store(self.history))
            clock = ShiftedClock(scratch)
            variables = {
                "CHAOS_BROKER": broker,
                "CHAOS_STORE": store.url,
                "CHAOS_HISTORY": str(self.folder),
                "CHAOS_FOLDER": str(scratch),
            }
            fleet = stack.enter_context(Fleet(_posts(clock), self.history, variables, self.folder))
            app = make_app(variables)
            app.finalize()
            stack.callback(app.close)
            arena = Arena(store, fleet, clock, self._given_up.wait)
            for post in _posts(clock):
                fleet.worker(post.name)
            self._break_things(arena, app)
            self._drain(fleet, may_lose)
            self.dropped = store.proxy.dropped
            return may_lose

    # --- Sending ---

    def _send_until_over(self, app: Any) -> None:
        while not self._over.wait(0.02):
            self._take_news()
            while len(self._open) < OPEN and not self._over.is_set():
                self._send(app)

    def _send(self, app: Any) -> None:
        kind = self._chance.choice(list(KEYS))
        # The exponent has more of them meet at a few keys.
        key, task_id = KEYS[kind][int(self._chance.random() ** 1.5 * len(KEYS[kind]))], uuid()
        # One in so many outlives its first ttl.
        seconds = self._chance.uniform(1, 2.5) * TTL if self._chance.random() < 0.08 else self._chance.uniform(0, 0.4)
        self.history.write("sent", key=key, task_id=task_id, reason=kind)
        try:
            result = app.tasks[kind].apply_async((key, seconds), task_id=task_id)
        except LockError as error:
            self.history.write("unsent", task_id=task_id, reason=repr(error))
            return
        if result.id == task_id:
            self._open.add(task_id)
        else:
            self.history.write("unsent", task_id=task_id, reason="existing")
            self.history.write("existing", task_id=result.id)

    def _take_news(self) -> int:
        ended = {event.task_id for event in self._reader.news() if event.kind == "success"} & self._open
        self._open -= ended
        return len(ended)

    # --- Breaking ---

    def _break_things(self, arena: Arena, app: Any) -> None:
        begin = time.monotonic()
        lanes = sorted({step.lane for step in self.steps})
        with ThreadPoolExecutor(len(lanes) + 1) as executor:
            sending = executor.submit(self._send_until_over, app)
            striking = [executor.submit(self._strike_all, arena, lane, begin) for lane in lanes]
            try:
                for lane in striking:
                    lane.result()
            finally:
                self._over.set()
            sending.result()

    def _strike_all(self, arena: Arena, lane: str, begin: float) -> None:
        try:
            for number, step in enumerate(step for step in self.steps if step.lane == lane):
                if number >= len(LANES[lane]) and time.monotonic() - begin > self.seconds:
                    return
                if self._given_up.wait(max(0.0, begin + step.at - time.monotonic())):
                    return
                self.history.write("fault", reason=step.kind, ttl=step.seconds)
                strike(arena, step)
        except BaseException:
            self._given_up.set()  # the other lanes need not go on
            raise

    # --- Ending ---

    def _drain(self, fleet: Fleet, may_lose: bool) -> None:
        """Waits until all have ended. What has not by then is the checker's to find."""
        deadline = last = time.monotonic()
        deadline += DRAIN
        while self._open and time.monotonic() < deadline:
            if self._take_news():
                last = time.monotonic()
            if time.monotonic() - last > STUCK:
                if self.rescues == (1 if may_lose else 3):
                    return
                self._rescue(fleet)
                last = time.monotonic()
            time.sleep(0.05)

    def _rescue(self, fleet: Fleet) -> None:
        self.rescues += 1
        for post in fleet.names:
            worker = fleet.end(post, signal.SIGTERM)
            fleet.start(post)
            fleet.bury(post, worker)


def _posts(clock: ShiftedClock) -> list[Post]:
    return [
        Post("prefork", {"pool": "prefork", "concurrency": 2}, {}),
        Post("shifted", {"pool": "prefork", "concurrency": 2}, clock.env),
        Post("threads", {"pool": "threads", "concurrency": 3}, {}),
    ]


@contextmanager
def _broker() -> Iterator[tuple[str, bool]]:
    """A broker apart from the store, and whether it may lose messages when a worker is killed."""
    if rabbitmq.script() is not None:
        with rabbitmq.RabbitServer() as server:
            yield server.url, False
    else:
        with RedisServer() as server:
            yield server.url(), True
