"""The app of the tests for tasks: made by workers and by the tests alike, of the same variables.

A task's name spells its body and its options, such as ``work(on_contention='wait', max_wait=1)``. Each process makes a
task when it first meets its name, so a test states its options, and all tests can share a worker.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from celery import Celery, bootsteps
from celery.app.registry import TaskRegistry
from celery.app.task import Task
from celery.app.trace import build_tracer

from celery_locks import Backoff, Contention, Lease, LockedTask, Skipped, current_lease
from celery_locks.signals import on_lock_contended, on_lock_timed_out
from tests.tasks.bodies import BODIES, journal_of
from tests.tasks.rabbit_queues import use_queues

#: Short, so that a deferred task comes back soon.
QUICK = Backoff(base=0.05, cap=0.2)
#: The options of tasks that are Celery's own.
CELERY_OPTIONS = {"ignore_result", "acks_late", "reject_on_worker_lost", "max_retries", "autoretry_for", "retry_kwargs"}


class ShopTask(LockedTask):
    """Writes what happens to its leases."""

    abstract = True
    lock_key = "<key>"
    lock_ttl = 5
    lock_backoff = QUICK

    def on_lock_lost(self, lease: Lease, reason: str) -> None:
        journal_of(self.app).write("lost", key=lease.key, token=lease.token, fence=lease.fencing_token, reason=reason)

    def on_failure(self, exc: Any, task_id: str, *rest: Any) -> None:
        journal_of(self.app).write("failed", task_id=task_id, error=type(exc).__name__)


def skip_by_function(contention: Contention) -> Skipped:
    """Skip a run, as a policy of a user's own."""
    return contention.skip()


def task_name(body: str, options: Mapping[str, Any]) -> str:
    """Return the name of a task, which spells its options."""
    given = (f"{name}={getattr(value, '__name__', repr(value))}" for name, value in options.items())
    return f"{body}({', '.join(given)})" if options else body


def make_task(app: Celery, name: str) -> Task:
    """Make the task that a name spells."""
    body, _, given = name.partition("(")
    names = {"Backoff": Backoff, "skip_by_function": skip_by_function}
    options = {**BODIES[body].options, **(eval(f"dict({given}", names) if given else {})}
    for option in options.keys() - CELERY_OPTIONS:
        options[f"lock_{option}"] = options.pop(option)
    return app.task(BODIES[body].run, name=name, bind=True, shared=False, lazy=False, base=ShopTask, **options)


class TasksOnDemand(TaskRegistry):
    """The tasks of an app, each of which is made when it is first asked for."""

    app: Celery

    def __missing__(self, name: str) -> Task:
        if name.partition("(")[0] not in BODIES:
            raise self.NotRegistered(name)
        task = make_task(self.app, name)
        # As for tasks that were there when the process began.
        task.__trace__ = build_tracer(name, task, self.app.loader, app=self.app)
        return task

    def get(self, name: str, default: Any = None) -> Any:
        """Return a task, made if need be: beat and the signatures of Celery ask like this."""
        try:
            return self[name]
        except self.NotRegistered:
            return default


class StrategiesOnDemand(dict):
    """The strategies by which a worker handles messages, by the task's name; for a task that is made later, too."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer.strategies)
        self._consumer = consumer

    def __missing__(self, name: str) -> Any:
        app = self._consumer.app
        self[name] = app.tasks[name].start_strategy(app, self._consumer)
        return self[name]


class ServeTasksOnDemand(bootsteps.StartStopStep):
    """Has a worker take the messages of tasks that it has not made yet."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        consumer.strategies = StrategiesOnDemand(consumer)


class ShopApp(Celery):
    """An app whose tasks are made on demand: also in a spawned child, which gets a copy of it."""

    registry_cls = TasksOnDemand

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tasks.app = self


def make_app(variables: Mapping[str, str]) -> Celery:
    """Make the app. Its tasks are its own: a process may have several such apps.

    Args:
        variables: ``SHOP_URL`` for all that have no variable of their own: ``SHOP_BROKER``, ``SHOP_RESULTS``,
            ``SHOP_STORE`` (``none`` for no setting), ``SHOP_JOURNAL``; and ``SHOP_VISIBILITY``, ``SHOP_CALL_TTL``,
            ``SHOP_SOFT`` (the soft shutdown) in seconds; ``SHOP_FOLDER``, where workers write down what they hold;
            ``SHOP_START``, how children are started; ``SHOP_EARLY`` for parking before the pool; ``SHOP_QUEUES``, a
            kind of RabbitMQ's; ``SHOP_AUDIT``, the address of a second store.
    """
    url = variables["SHOP_URL"]
    broker, results = variables.get("SHOP_BROKER", url), variables.get("SHOP_RESULTS", url)
    app = ShopApp("shop", broker=broker, backend=results, set_as_current=False)
    app.steps["consumer"].add(ServeTasksOnDemand)
    store = variables.get("SHOP_STORE", url)
    app.conf.update(
        shop_journal=variables.get("SHOP_JOURNAL", url),
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": int(variables.get("SHOP_VISIBILITY", "3600")),
            "socket_timeout": 10,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=float(variables.get("SHOP_SOFT", "0")),
        worker_proc_alive_timeout=60,  # a slow machine starts children slowly
        worker_pool_start_method=variables.get("SHOP_START", "fork"),
        locks_folder=variables.get("SHOP_FOLDER"),
        locks_sweep_interval=1,
        locks_park_before_pool="SHOP_EARLY" in variables,
        locks_call_ttl=float(variables.get("SHOP_CALL_TTL", "60")),
        **({} if store == "none" else {"locks_url": store}),
        locks_stores={"audit": variables["SHOP_AUDIT"]} if "SHOP_AUDIT" in variables else {},
    )
    if "SHOP_QUEUES" in variables:
        use_queues(app, variables["SHOP_QUEUES"])
    # A worker checks these when it starts.
    for name in ("work", "work(on_contention='park')", "work(backoff=Backoff())"):
        make_task(app, name)
    add_canvas_tasks(app)
    return app


def add_canvas_tasks(app: Celery) -> None:
    """Add the tasks that come before and after locked ones in a canvas."""

    @app.task(name="add_up", shared=False)
    def add_up(results: list[Any]) -> list[Any]:
        return results

    @app.task(name="then", shared=False)
    def then(result: Any, *more: Any) -> Any:
        return [result, *more]

    @app.task(name="on_error", shared=False)
    def on_error(request: Any, error: Any, trace: Any) -> None:
        journal_of(app).write("errback", task_id=request.id, error=type(error).__name__)

    @app.task(name="canvas_step", shared=False)
    def canvas_step(*given: Any, name: str, mark: str) -> Any:
        journal_of(app).write("step", step=name, mark=mark)
        return [name, *given] if given else name

    @app.task(name="canvas_errback", shared=False)
    def canvas_errback(request: Any, error: Any, trace: Any, mark: str) -> None:
        journal_of(app).write("step", step="errback", mark=mark, error=type(error).__name__)

    @app.task(name="canvas_locked_errback", shared=False, base=ShopTask)
    def canvas_locked_errback(request: Any, error: Any, trace: Any, key: str) -> None:
        journal_of(app).write("locked errback", mark=key, leased=current_lease() is not None)


if "SHOP_URL" in os.environ:
    app = make_app(os.environ)

    @on_lock_contended.connect
    def write_contended(sender: Any, key: str, **_: Any) -> None:
        journal_of(app).write("contended", key=key)

    @on_lock_timed_out.connect
    def write_timed_out(sender: Any, key: str, holders: list[str], owner: str | None, **_: Any) -> None:
        journal_of(app).write("timed_out", key=key, task=sender.name, holders=holders, owner=owner)
