"""A run with parked tasks: lines in the store, workers and brokers that fail by a schedule, and what is left."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from celery.result import AsyncResult

from celery_locks import Locks
from celery_locks.testing.local import processes
from tests.chaos.fleet import Fleet, Post
from tests.chaos.history import History, Reader, read
from tests.chaos.parked_app import make_app
from tests.chaos.parked_verdict import Rules, Ticket, Verdict, judge
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

#: What may fail.
KINDS = ("cold restart", "kill worker", "kill child", "cut broker")
#: Seconds in which no task ends, after which the next fault begins all the same.
PATIENCE_SECONDS = 3.0
#: Seconds in which no task ends, with all faults over, after which the rest counts as stuck. Above the broker's
#: visibility timeout, and above the deadline of a task that was dispatched three times.
QUIET_SECONDS = 30.0
#: Seconds within which the store must be empty after that.
CLEARED_SECONDS = 20.0
#: Seconds that a worker gets for a cold shutdown: its handler of the signal may meet a lock that its own thread holds.
COLD_SECONDS = 12.0
#: Seconds that a fault waits for a body to be under way.
BODY_SECONDS = 1.0


@dataclass(frozen=True)
class Step:
    """A fault.

    Attributes:
        kind: One of `KINDS`.
        pick: From 0 to 1: which victim, and whether the fault waits until one of its bodies is under way.
    """

    kind: str
    pick: float

    @property
    def in_body(self) -> bool:
        """Whether it waits for a body of its victim."""
        return self.pick * 10 % 1 < 0.6

    def __str__(self) -> str:
        return f"{self.kind:12} pick {self.pick:.3f}{' in a body' if self.in_body else ''}"


def schedule(seed: int, faults: int, kinds: Sequence[str] = KINDS) -> list[Step]:
    """Return that many faults; the same seed gives the same ones. Each kind comes once before any comes again."""
    chance = random.Random(f"{seed} parked faults")
    chosen: list[str] = []
    while len(chosen) < faults:
        chosen += chance.sample(kinds, len(kinds))
    return [Step(kind, chance.random()) for kind in chosen[:faults]]


class ParkedRun:
    """A run.

    Args:
        steps: Its faults, which come one after the other.
        tasks: How many tasks are sent: half of them before the first fault, the others meanwhile.
        keys: How many keys they share.
        late: Whether messages are acknowledged late.
        broker: The broker's address for a port; without one, the lock store is the broker, and no connection is cut.
        broker_port: The broker's own port.
        seed: For the tasks.
        folder: An empty one, for the history.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        tasks: int,
        keys: int,
        late: bool,
        broker: Callable[[int], str] | None = None,
        broker_port: int = 0,
        seed: int,
        folder: Path,
    ) -> None:
        self.steps = steps
        self.history = History(folder)
        self.faults: Counter[str] = Counter()
        #: How many faults met a body of their victim.
        self.in_body = 0
        self._tasks, self._late, self._folder = tasks, late, folder
        self._keys = [f"key-{number}" for number in range(keys)]
        self._broker, self._broker_port = broker, broker_port
        self._rules = Rules(late, broker_loses=broker is None or broker(broker_port).startswith("redis"))
        self._chance = random.Random(f"{seed} parked tasks")
        self._sent: list[str] = []
        self._over = threading.Event()
        self._reader = Reader(folder)
        self._ended: set[str] = set()
        self._bodies: dict[str, int] = {}
        self._last_end = 0.0

    def go(self) -> Verdict:
        """Run all of it, and judge it."""
        with ExitStack() as stack:
            scratch = processes.make_folder()
            stack.callback(processes.remove_folder, scratch)
            store = stack.enter_context(RedisServer())
            proxy = stack.enter_context(Proxy(self._broker_port, redis=False))
            workers_way, own_way = self._addresses(store, proxy)
            variables = {
                "PARKED_BROKER": workers_way,
                "PARKED_STORE": store.url(1),
                "PARKED_RESULTS": store.url(2),
                "PARKED_QUEUE": f"parked-{uuid.uuid4().hex[:8]}",
                "PARKED_LATE": "1" if self._late else "0",
                "PARKED_HISTORY": str(self._folder),
                "PARKED_FOLDER": str(scratch),
                "PYTHONFAULTHANDLER": "1",
            }
            options = {"queues": [variables["PARKED_QUEUE"]]}
            posts = [Post("pool", options, {}), Post("before pool", options, {"PARKED_BEFORE_POOL": "1"})]
            fleet = stack.enter_context(
                Fleet(posts, self.history, variables, self._folder, module="tests.chaos.parked_app")
            )
            app = make_app({**variables, "PARKED_BROKER": own_way})
            app.finalize()
            stack.callback(app.close)
            locks = Locks.from_app(app)
            for name in fleet.names:
                fleet.worker(name)
            self._park_half(app, locks, lambda: self._tickets(store))
            self._break_things(app, fleet, proxy)
            verdict = self._end(app, locks, store)
            verdict.figures["workers that hung in their cold shutdown"] = len(fleet.hung)
            return verdict

    def _addresses(self, store: RedisServer, proxy: Proxy) -> tuple[str, str]:
        """Return the broker's address for the workers, and the one for this process, whose connections stay."""
        if self._broker is None:
            return store.url(1), store.url(1)
        return self._broker(proxy.port), self._broker(self._broker_port)

    # --- Tasks ---

    def _park_half(self, app: Any, locks: Locks, tickets: Callable[[], list[Ticket]]) -> None:
        """Send half of the tasks while their keys are held, and release the keys when all have parked."""
        leases = [locks.lock(key, ttl=60).acquire() for key in self._keys]
        for _ in range(self._tasks // 2):
            self._send(app)
        eventually(lambda: len(tickets()) == self._tasks // 2, 120, "the tasks never parked", 0.1)
        for lease in leases:
            assert lease.release(), f"{lease.key} was lost while its tasks parked"

    def _send(self, app: Any) -> None:
        # Most bodies are over in a few milliseconds; one in eight lasts long enough for a fault to meet it.
        seconds = self._chance.uniform(0.1, 0.4) if self._chance.random() < 0.125 else self._chance.uniform(0, 0.01)
        key, task_id = self._chance.choice(self._keys), str(uuid.UUID(int=self._chance.getrandbits(128), version=4))
        self._sent.append(task_id)
        app.tasks["sync"].apply_async((key, seconds), task_id=task_id)

    def _send_the_rest(self, app: Any) -> None:
        """Send the other half in step with the tasks that end: the lines stay long until the last fault."""
        while len(self._sent) < self._tasks and not self._over.wait(0.005):
            if len(self._sent) - len(self._ended) <= self._tasks // 2:
                self._send(app)

    def _take_news(self) -> None:
        for event in self._reader.news():
            if event.kind == "success" and event.task_id not in self._ended:
                self._ended.add(event.task_id)
                self._last_end = time.monotonic()
            elif event.kind == "begin":
                self._bodies[event.token] = event.pid
            elif event.kind == "end":
                self._bodies.pop(event.token, None)

    # --- Faults ---

    def _break_things(self, app: Any, fleet: Fleet, proxy: Proxy) -> None:
        sender = threading.Thread(target=self._send_the_rest, args=(app,), name="sender")
        self._last_end = time.monotonic()
        sender.start()
        try:
            for number, step in enumerate(self.steps):
                self._await_progress((number + 1) * self._tasks // (len(self.steps) + 2))
                self.history.write("fault", reason=step.kind)
                self.faults[step.kind] += 1
                self._strike(step, fleet, proxy)
            while len(self._sent) < self._tasks and time.monotonic() - self._last_end < QUIET_SECONDS:
                self._take_news()
                time.sleep(0.05)
        finally:
            self._over.set()
            sender.join()
        for name in fleet.names:
            fleet.worker(name)

    def _await_progress(self, goal: int) -> None:
        begin = time.monotonic()
        while len(self._ended) < goal and time.monotonic() - max(begin, self._last_end) < PATIENCE_SECONDS:
            self._take_news()
            time.sleep(0.01)

    def _strike(self, step: Step, fleet: Fleet, proxy: Proxy) -> None:
        if step.kind == "cut broker":
            children = [pid for name in fleet.names for pid in fleet.worker(name).child_pids()]
            self._await_body(step, children)
            if self._late:  # the workers cancel what runs, and end those processes
                for pid in children:
                    self.history.write("quit", pid=pid)
            proxy.cut()
            return
        name = fleet.ready(fleet.names, step.pick)
        worker = fleet.worker(name)
        children = eventually(worker.child_pids, 30, "the worker has no children")
        self._await_body(step, children)
        if step.kind == "kill child":
            busy = [pid for pid in children if pid in self._bodies.values()] if step.in_body else []
            fleet.kill(self._of(busy or children, step))
            return
        if step.kind == "cold restart":
            worker, pids = fleet.end(name, signal.SIGQUIT, COLD_SECONDS), None
        else:
            pids = self._kill_worker(worker)
        fleet.start(name)
        fleet.bury(name, worker, pids)

    def _await_body(self, step: Step, pids: Sequence[int]) -> None:
        if not step.in_body:
            return
        deadline = time.monotonic() + BODY_SECONDS
        while time.monotonic() < deadline:
            self._take_news()
            if set(pids) & set(self._bodies.values()):
                self.in_body += 1
                return
            time.sleep(0.002)

    def _of(self, pids: Sequence[int], step: Step) -> int:
        return pids[int(step.pick * 2 % 1 * len(pids))]

    def _kill_worker(self, worker: Any) -> list[int]:
        """Kill a worker with all its processes, and return them."""
        os.kill(worker.pid, signal.SIGSTOP)  # it makes no more of them
        eventually(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, 30)
        pids = [worker.pid, *worker.child_pids()]
        for pid in pids:
            self.history.write("killed", pid=pid)
        os.killpg(worker.pid, signal.SIGKILL)
        return pids

    # --- The end ---

    def _end(self, app: Any, locks: Locks, store: RedisServer) -> Verdict:
        """Wait until each task has ended, or no task ends any more. Then judge what became of each."""
        self._last_end = time.monotonic()
        while self._some_may_end(app) and time.monotonic() - self._last_end < QUIET_SECONDS:
            time.sleep(0.2)
        verdict = self._judge(app, ())
        if not verdict.stuck:
            self._await_empty_store(locks, store, verdict.lost)
        verdict = self._judge(app, self._tickets(store))
        if held := [info.key for info in locks.list().items]:
            verdict.violations.append(f"held or waited for at the end: {', '.join(held)}")
        return verdict

    def _some_may_end(self, app: Any) -> bool:
        self._take_news()
        if len(self._ended) == len(self._sent):
            return False
        return time.monotonic() - self._last_end < PATIENCE_SECONDS or bool(self._judge(app, ()).stuck)

    def _judge(self, app: Any, tickets: Sequence[Ticket]) -> Verdict:
        states = {task_id: _state(AsyncResult(task_id, app=app)) for task_id in self._sent}
        return judge(read(self._folder), states, tickets, self._rules)

    def _await_empty_store(self, locks: Locks, store: RedisServer, lost: set[str]) -> None:
        """Wait until nothing is held and no ticket is left but those of lost tasks. The caller finds what is left."""

        def empty() -> bool:
            return not locks.stats().locks and {ticket.task_id for ticket in self._tickets(store)} <= lost

        with suppress(AssertionError):
            eventually(empty, CLEARED_SECONDS, interval=0.2)

    def _tickets(self, store: RedisServer) -> list[Ticket]:
        """Return the tickets that a Redis store has, other than tombstones."""
        found = []
        with store.client(1) as client:
            for name in client.scan_iter(match="*:ticket:*", count=1000):
                if client.type(name) == "hash":
                    known = client.hmget(name, "state", "task")
                    if known[0] and known[0] != "done":
                        found.append(Ticket(known[1] or "", known[0]))
        return found


def _state(result: AsyncResult) -> str:
    state = str(result.state)
    return f"{state} {type(result.result).__name__}" if state == "FAILURE" else state
