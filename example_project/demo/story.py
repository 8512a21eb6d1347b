"""The course of the demo: workers start, jobs are sent, one worker is killed, all jobs are done."""

from __future__ import annotations

import time
from dataclasses import dataclass

from celery_locks import Locks
from example_project.demo.accident import Accident
from example_project.demo.crew import Crew
from example_project.demo.hurry import VISIBILITY_TIMEOUT
from example_project.demo.interrupt import pause
from example_project.demo.orders import Job, keys
from example_project.demo.processes import Stage
from example_project.demo.state import Screen, State
from example_project.demo.watch import Holding, look
from example_project.shop import journal
from example_project.shop.app import app

#: Seconds between two steps.
TICK = 0.1
#: After this time without work, tasks without a result are sent again. It is longer than any backoff.
QUIET = 3.0
#: Tasks are not sent again before this time after the kill, so that the broker can deliver them again.
REDELIVERY = VISIBILITY_TIMEOUT + 3.0
#: After this time without work, tasks without a result count as lost.
PATIENCE = 20.0


@dataclass(frozen=True)
class Plan:
    """The options of the demo.

    Attributes:
        jobs: The tasks to be sent.
        workers: The number of workers.
        concurrency: The number of processes of each worker.
        kill: Whether one worker is killed.
    """

    jobs: list[Job]
    workers: int
    concurrency: int
    kill: bool


class Story:
    """Runs a plan.

    Attributes:
        sent: The jobs by the ids of their messages.
        sent_again: The ids of messages that the broker lost.
        crew: The workers.
        accident: The death of one worker.
    """

    def __init__(self, plan: Plan, stage: Stage, screen: Screen) -> None:
        self.sent: dict[str, Job] = {}
        self.sent_again: set[str] = set()
        self.crew = Crew(stage, plan.concurrency)
        self.accident = Accident(self.crew, self._look, screen.say)
        self._plan = plan
        self._stage = stage
        self._screen = screen
        self._started = self._last_progress = 0.0
        self._locks = Locks.from_app(app)
        self._state = State(keys(plan.jobs), app.conf.locks_ttl, len(plan.jobs))

    def play(self) -> None:
        """Run everything from the start of the workers to their end.

        Raises:
            DemoError: A worker died that was not killed.
            Interrupted: A signal was received.
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
        self._screen.say(f"Ready: {', '.join(names)}, with {plan.concurrency} processes each.")
        how = "Each locks" if app.conf.locks_enabled else "Locks are off. Each would lock"
        self._screen.say(f"Sending {len(plan.jobs)} tasks. {how} one of {len(self._state.keys)} keys while it runs.")

    def _work(self) -> None:
        self._started = self._last_progress = time.monotonic()
        while not self._finished():
            self._send_due()
            self._show()
            self._record_progress()
            self._send_missing_again()
            if self._plan.kill:
                self.accident.watch(self._state.holdings)
            self._stage.check()
            for name in self.crew.newly_ready():
                self._screen.say(f"{name} is ready.")
            if time.monotonic() > self._last_progress + PATIENCE:
                self._screen.say(f"No task has run for {PATIENCE:.0f} s. The tasks without a result count as lost.")
                return
            pause(TICK)

    def _finished(self) -> bool:
        accident = self.accident
        return self._state.done == len(self._plan.jobs) and (accident.over or not accident.victim)

    def _send_due(self) -> None:
        now = time.monotonic() - self._started
        for job in self._plan.jobs[len(self.sent) :]:
            if job.at > now:
                break
            self.sent[job.task.apply_async(kwargs=job.arguments).id] = job
        self._state.sent = len(self.sent)

    def _record_progress(self) -> None:
        """Record when a task was done, or was at least running."""
        done = len(journal.done() & self.sent.keys())
        if done > self._state.done or self._state.holdings:
            self._last_progress = time.monotonic()
        self._state.done = done

    def _send_missing_again(self) -> None:
        """Send tasks without a result again, under their old ids, if no worker runs one.

        A worker takes a message from Redis, and records it after that. If it is killed in between, the message is lost.
        No setting of Celery prevents that, and only the sender can notice it.
        """
        now, accident = time.monotonic(), self.accident
        quiet = now > self._last_progress + QUIET and (not accident.victim or now > accident.at + REDELIVERY)
        if not quiet or self._state.sent < self._state.total:
            return
        missing = [job for job in self.sent if job not in journal.done() and job not in self.sent_again]
        for job in missing:
            self.sent[job].task.apply_async(kwargs=self.sent[job].arguments, task_id=job)
        self.sent_again.update(missing)
        if missing:
            self._screen.say(f"The broker lost messages with the worker: {len(missing)}. The shop sends them again.")

    def _look(self) -> list[Holding]:
        return look(self._locks, self._state.keys)

    def _show(self) -> None:
        self._state.holdings = self._look()
        self._state.dead = set(self.crew.deaths)
        self._screen.show(self._state)

    def _stop(self) -> None:
        self._state.note = "stopping the workers"
        self.crew.dismiss(self._show)
