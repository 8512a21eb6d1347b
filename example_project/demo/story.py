"""The course of the demo: workers start, jobs come in, one worker dies, all jobs are done."""

from __future__ import annotations

import time
from dataclasses import dataclass

from celery_locks import Locks
from example_project.demo.accident import Accident
from example_project.demo.crew import Crew
from example_project.demo.interrupt import pause
from example_project.demo.orders import Job, keys
from example_project.demo.processes import Stage
from example_project.demo.state import Screen, State
from example_project.demo.watch import look
from example_project.shop import journal
from example_project.shop.app import app

#: Seconds between two looks.
TICK = 0.1
#: Seconds without any task done after which the rest counts as lost.
PATIENCE = 25.0


@dataclass(frozen=True)
class Plan:
    """What is to happen.

    Attributes:
        jobs: The tasks to be sent.
        workers: How many workers there are.
        concurrency: How many processes each of them has.
        kill: Whether one of them dies.
    """

    jobs: list[Job]
    workers: int
    concurrency: int
    kill: bool


class Story:
    """Plays a plan.

    Attributes:
        sent: The jobs by the ids of their messages.
        crew: The workers.
        accident: The death of one of them.
    """

    def __init__(self, plan: Plan, ground: str, stage: Stage, screen: Screen) -> None:
        self.sent: dict[str, Job] = {}
        self.crew = Crew(stage, plan.concurrency)
        self.accident = Accident(self.crew, screen.say)
        self._plan = plan
        self._stage = stage
        self._screen = screen
        self._locks = Locks.from_app(app)
        self._state = State(ground, keys(plan.jobs), app.conf.locks_ttl, len(plan.jobs))

    def play(self) -> None:
        """From the start of the workers to their end.

        Raises:
            DemoError: A worker died that was not to.
            Interrupted: Somebody wants it to end.
        """
        try:
            self._start()
            self._work()
            self._stop()
        finally:
            self._screen.close()
            self._locks.close()

    def _start(self) -> None:
        plan = self._plan
        names = [self.crew.hire() for _ in range(plan.workers)]
        self._state.note = f"waiting for {', '.join(names)} to start"
        self.crew.wait_until_ready(self._show)
        self._state.note = ""
        self._screen.say(f"{' and '.join(names)} are ready, with {plan.concurrency} processes each.")
        self._screen.say(f"{len(plan.jobs)} tasks will be sent, for {len(self._state.keys)} keys.")

    def _work(self) -> None:
        start = last_done = time.monotonic()
        while not self._finished():
            if self._send_due(time.monotonic() - start):
                last_done = time.monotonic()
            done, before = len(journal.done() & self.sent.keys()), self._state.done
            if done > before:
                self._state.done, last_done = done, time.monotonic()
            if time.monotonic() > last_done + PATIENCE:
                self._screen.say(f"No task was done for {PATIENCE:.0f} s: the rest counts as lost.")
                return
            self._show()
            if self._plan.kill:
                self.accident.watch(self._state.holdings)
            self._stage.check()
            for name in self.crew.newly_ready():
                self._screen.say(f"{name} is ready.")
            pause(TICK)

    def _finished(self) -> bool:
        accident = self.accident
        return self._state.done == len(self._plan.jobs) and (accident.over or not accident.victim)

    def _send_due(self, now: float) -> bool:
        due = [job for job in self._plan.jobs[len(self.sent) :] if job.at <= now]
        for job in due:
            self.sent[job.task.apply_async(kwargs=job.arguments).id] = job
        self._state.sent = len(self.sent)
        return bool(due)

    def _show(self) -> None:
        self._state.holdings = look(self._locks, self._state.keys)
        self._state.dead = set(self.crew.deaths)
        self._screen.show(self._state)

    def _stop(self) -> None:
        self._state.note = "the workers end"
        self.crew.dismiss(self._show)
