"""The app of the tests for tasks: made by workers and by the tests alike, of the same variables."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

from celery_locks import Backoff, Contention, Lease, LockedTask, Skipped, current_lease, single_instance
from celery_locks.signals import on_lock_contended, on_lock_timed_out
from tests.support.journal import Journal
from tests.support.waiting import eventually
from tests.tasks.aborted import define_aborts
from tests.tasks.canvas_table import define_canvas
from tests.tasks.dying import define_deaths
from tests.tasks.rabbit_shop import define_rabbit, use_queues
from tests.tasks.scoped import define_scopes

#: Short, so that a deferred task comes back soon.
QUICK = Backoff(base=0.05, cap=0.2)


class ShopTask(LockedTask):
    """Writes what happens to its leases."""

    abstract = True
    lock_backoff = QUICK

    def on_lock_lost(self, lease: Lease, reason: str) -> None:
        journal_of(self.app).write("lost", key=lease.key, token=lease.token, fence=lease.fencing_token, reason=reason)

    def on_failure(self, exc: Any, task_id: str, *rest: Any) -> None:
        journal_of(self.app).write("failed", task_id=task_id, error=type(exc).__name__)


def journal_of(app: Celery) -> Journal:
    return Journal(app.conf.shop_journal)


def body(task: Any, key: str, seconds: float = 0.0, until: str | None = None) -> str:
    """What most tasks do: write begin and end, and take their time in between.

    Args:
        task: The task.
        key: What is written as the key.
        seconds: How long to sleep.
        until: A file to wait for.
    """
    journal, lease, run = journal_of(task.app), current_lease(), uuid.uuid4().hex
    fence = lease.fencing_token if lease else 0
    journal.write("begin", key=key, run=run, task_id=task.request.id, fence=fence, retries=task.request.retries)
    if until is not None:
        eventually(Path(until).exists, timeout=60)
    time.sleep(seconds)
    journal.write("end", key=key, run=run)
    return key


def make_app(variables: Mapping[str, str]) -> Celery:
    """The app with all its tasks. They are its own: a process may have several such apps.

    Args:
        variables: ``SHOP_URL`` for all that is not named apart: ``SHOP_BROKER``, ``SHOP_RESULTS``, ``SHOP_STORE``
            (``none`` for no setting), ``SHOP_JOURNAL``; and ``SHOP_VISIBILITY``, ``SHOP_CALL_TTL``, ``SHOP_TTL``,
            ``SHOP_SOFT`` (the soft shutdown) in seconds; ``SHOP_FOLDER``, where workers write down what they hold;
            ``SHOP_START``, how children are started; ``SHOP_EARLY`` for parking before the pool; ``SHOP_QUEUES``, a
            kind of RabbitMQ's; ``SHOP_AUDIT``, the address of a second store.
    """
    url = variables["SHOP_URL"]
    broker, results = variables.get("SHOP_BROKER", url), variables.get("SHOP_RESULTS", url)
    app = Celery("shop", broker=broker, backend=results, set_as_current=False)
    store = variables.get("SHOP_STORE", url)
    app.conf.update(
        shop_ttl=variables.get("SHOP_TTL", "5"),
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
    define_policies(app)
    define_retries(app)
    define_losses(app)
    define_limits(app)
    define_canvas(app, ShopTask, app.tasks["work"].run.locked_body, journal_of(app))
    define_parking(app)
    define_scopes(app, ShopTask, body)
    if "SHOP_QUEUES" in variables:
        use_queues(app, variables["SHOP_QUEUES"])
        define_rabbit(app, ShopTask, body)
    define_aborts(app, ShopTask, journal_of(app))
    define_deaths(app, ShopTask, body, journal_of)
    return app


def define_policies(app: Celery) -> None:
    options = {"bind": True, "shared": False, "base": ShopTask, "lock_key": "<key>", "lock_ttl": 5}

    @app.task(name="work", **options)
    def work(self: Any, key: str, seconds: float = 0.0, until: str | None = None) -> str:
        return body(self, key, seconds, until)

    for policy in ("skip", "raise", "wait", "reject"):
        app.task(work.run.locked_body, name=policy, lock_on_contention=policy, **options)
    app.task(work.run.locked_body, name="reject_late", lock_on_contention="reject", acks_late=True, **options)
    app.task(work.run.locked_body, name="impatient", lock_max_wait=1, **options)
    app.task(work.run.locked_body, name="impatient_wait", lock_max_wait=0.5, lock_on_contention="wait", **options)
    app.task(work.run.locked_body, name="own_policy", lock_on_contention=own_policy, **options)

    @app.task(name="add_up", shared=False)
    def add_up(results: list[Any]) -> list[Any]:
        return results

    @app.task(name="then", shared=False)
    def then(result: Any, *more: Any) -> Any:
        return [result, *more]

    @app.task(name="on_error", shared=False)
    def on_error(request: Any, error: Any, trace: Any) -> None:
        journal_of(app).write("errback", task_id=request.id, error=type(error).__name__)


def own_policy(contention: Contention) -> Skipped:
    return contention.skip()


def define_retries(app: Celery) -> None:
    options = {"bind": True, "shared": False, "base": ShopTask, "lock_key": "<key>", "lock_ttl": 5, "max_retries": 3}

    def retries(self: Any, key: str) -> None:
        body(self, key)
        self.retry(countdown=0)

    def raises(self: Any, key: str) -> None:
        body(self, key)
        raise ValueError("always")

    def ends_with(self: Any, key: str, how: str) -> None:
        body(self, key)
        raise {"reject": Reject("no"), "ignore": Ignore()}[how]

    def wants_once(self: Any, key: str) -> int:
        """Retries itself once, and has no more retries than that."""
        if self.request.retries == 0:
            self.retry(countdown=0)
        return int(self.request.retries)

    autoretry = {"autoretry_for": (ValueError,), "retry_kwargs": {"countdown": 0, "max_retries": 3}}
    for policy in ("retry", "skip", "raise"):
        app.task(retries, name=f"retries_{policy}", lock_on_contention=policy, **options)
        app.task(raises, name=f"autoretries_{policy}", lock_on_contention=policy, **options, **autoretry)
    app.task(ends_with, name="ends_with", **options)
    app.task(wants_once, name="wants_once", **{**options, "max_retries": 1})


def define_losses(app: Celery) -> None:
    options = {"bind": True, "shared": False, "base": ShopTask, "lock_key": "<key>", "lock_ttl": 1.5}

    def stubborn(self: Any, key: str, seconds: float) -> str:
        try:
            return body(self, key, seconds)
        except Exception:
            return "swallowed"

    app.task(stubborn, name="stubborn", **options)
    app.task(stubborn, name="patient", **{**options, "lock_ttl": 6})
    app.task(stubborn, name="not_renewed", **{**options, "lock_ttl": 0.5}, lock_renew=False, lock_on_lost="signal")

    @app.task(name="naps", **{**options, "lock_ttl": 60})
    def naps(self: Any, key: str, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.01)
        return "never noticed"

    @app.task(bind=True, shared=False, name="checks")
    @single_instance(key="<key>", ttl=1.5, on_lost="signal")
    def checks(self: Any, key: str, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.lease.check()
            time.sleep(0.01)
        return "never noticed"


def define_parking(app: Celery) -> None:
    options = {"bind": True, "shared": False, "base": ShopTask, "lock_key": "<key>", "lock_ttl": 5}
    options["lock_on_contention"] = "park"

    @app.task(name="park", **options)
    def park(self: Any, key: str, seconds: float = 0.0, until: str | None = None) -> str:
        return body(self, key, seconds, until)

    run = park.run.locked_body
    app.task(run, name="park_late", acks_late=True, **options)
    hardy = {**options, "lock_ttl": float(app.conf.shop_ttl)}
    app.task(run, name="park_hardy", acks_late=True, reject_on_worker_lost=True, **hardy)
    app.task(run, name="park_impatient", lock_max_wait=1, **options)
    app.task(run, name="park_few", lock_max_waiters=1, **options)
    app.task(run, name="park_two", lock_limit=2, **options)
    app.task(run, name="park_copied", lock_park_safety_copy=2, **options)

    parent = os.getpid() if "worker" in sys.argv else None  # this runs before the children are made

    def raises_in_the_parent(key: str, seconds: float = 0.0, until: str | None = None) -> str:
        if os.getpid() == parent:
            raise RuntimeError("no key here")
        return key

    app.task(run, name="park_strange_key", **{**options, "lock_key": raises_in_the_parent})

    @app.task(name="park_shows", **options)
    def park_shows(self: Any, key: str) -> dict[str, Any]:
        """What its message was like."""
        request = self.request
        body(self, key)
        names = ("expires", "eta", "root_id", "parent_id", "group", "stamps", "stamped_headers", "timelimit", "shadow")
        shown = {name: getattr(request, name) for name in names}
        return {**shown, "headers": request.headers, "delivery": request.delivery_info, "reply_to": request.reply_to}

    @app.task(name="park_retries", **{**options, "max_retries": 3})
    def park_retries(self: Any, key: str) -> None:
        body(self, key)
        self.retry(countdown=0)

    autoretry = {"autoretry_for": (ValueError,), "retry_kwargs": {"countdown": 0, "max_retries": 3}}

    @app.task(name="park_autoretries", **options, **autoretry)
    def park_autoretries(self: Any, key: str) -> None:
        body(self, key)
        raise ValueError("always")


#: Of the tasks below, by name: their weight of a limit of 5.
WEIGHTS = {f"takes_{permits}": permits for permits in (1, 2, 3)}


def define_limits(app: Celery) -> None:
    options = {"bind": True, "shared": False, "base": ShopTask, "lock_key": "<key>", "lock_ttl": 1.5}
    run = app.tasks["work"].run.locked_body
    for name, permits in WEIGHTS.items():
        app.task(run, name=name, lock_limit=5, lock_permits=permits, **options)
        for policy in ("wait", "park"):
            others = {"lock_on_contention": policy, **options}
            app.task(run, name=f"{name}_{policy}", lock_limit=5, lock_permits=permits, **others)


if "SHOP_URL" in os.environ:
    app = make_app(os.environ)

    @on_lock_contended.connect
    def write_contended(sender: Any, key: str, **_: Any) -> None:
        journal_of(app).write("contended", key=key)

    @on_lock_timed_out.connect
    def write_timed_out(sender: Any, key: str, holders: list[str], owner: str | None, **_: Any) -> None:
        journal_of(app).write("timed_out", key=key, task=sender.name, holders=holders, owner=owner)
