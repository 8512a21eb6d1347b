"""``doctor``: checks all that locks need, and reports what to do about what is wrong."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import celery
import click

import celery_locks
from celery_locks import LockError, Locks, StoreUnavailable
from celery_locks._addresses import mask_text
from celery_locks._logging import one_line
from celery_locks._validation import DEFAULT_STORE
from celery_locks.cli.doctor_broker import of_broker
from celery_locks.cli.doctor_deadlocks import Place, Runs, deadlocks
from celery_locks.cli.doctor_results import Finding, line_of
from celery_locks.cli.list_keys import MOST_PAGES
from celery_locks.cli.output import Seconds, locks_of, print_json, store_option
from celery_locks.lock_info import MOST_ON_A_PAGE, LockInfo
from celery_locks.locks import store_names
from celery_locks.stores.base import Store
from celery_locks.stores.check_results import is_warning
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks.settings_check import check_settings
from celery_locks.tasks.worker import checks
from celery_locks.views import read_all_holders

#: By now a dead waiter was passed over, and a worker that sweeps has swept.
PATIENCE = 12.0
#: Seconds between two looks at waiters.
LOOK_EVERY = 0.25
#: How many stuck keys are named.
MOST_NAMED = 5
#: The exit status by what was found worst.
STATUS = {"ok": 0, "warning": 1, "error": 2}
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command("doctor", short_help="Check the store, the broker and the settings.")
@click.option(
    "--patience",
    type=Seconds(0),
    default=PATIENCE,
    show_default=True,
    metavar="DURATION",
    help="How long a free key with somebody in line is watched before it counts as stuck.",
)
@store_option("all of them")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor_command(ctx: click.Context, patience: float, store: str | None, as_json: bool) -> None:
    """Check all that locks need: settings, store, broker, workers, waiters. Print what to do about what is wrong.

    It acquires and releases a throwaway lock, and sends a message to a throwaway queue. The exit status is 0 when all
    is well, 1 when something may break locks, 2 when they don't work.

    \b
    Example:
      celery -A proj locks doctor || mail -s "locks" ops@example.org
    """
    found, several = [], len(_store_names(ctx)) > 1
    for finding in examine(ctx, patience, store):
        found.append(finding)
        if not as_json:
            status = click.style(finding.status.ljust(7), fg=_COLOURS[finding.status])
            check = f"{finding.check} ({one_line(finding.store)})" if several and finding.store else finding.check
            click.echo(f"{status}  {check}: {one_line(finding.text)}", color=False if ctx.obj.no_color else None)
    if as_json:
        print_json([asdict(finding) for finding in found])
    ctx.exit(max(STATUS[finding.status] for finding in found))


def _store_names(ctx: click.Context) -> tuple[str, ...]:
    try:
        return store_names(ctx.obj.app.conf)
    except LockError:  # of which a check reports
        return (DEFAULT_STORE,)


def examine(ctx: click.Context, patience: float, store: str | None = None) -> Iterator[Finding]:
    """Make all checks that can be made, of one store or of all of them."""
    app = ctx.obj.app
    yield Finding("versions", "ok", _versions())
    tasks: list[Any] | None = None
    try:
        app.loader.import_default_modules()
        app.finalize(auto=True)
        tasks = checks.locked_tasks(app)
    except LockError as error:  # its text names the remedy
        yield Finding("settings", "error", line_of(error))
    except Exception as error:  # the modules are the user's own
        yield Finding("settings", "error", f"the tasks can't be loaded: {_named(error)}. Fix the module that raises it")
    yield from _guarded("settings", lambda: _of_settings(app, tasks))
    seen: list[Lines] = []
    for name in _store_names(ctx) if store is None else (store,):
        own = [task for task in tasks or () if task.lock_options.store == name]
        of_store = partial(_of_store, ctx, name, own, patience, seen)
        yield from (replace(finding, store=name) for finding in _guarded("store", of_store))
    contended = [place for lines in seen for place in lines.contended]
    runs = Runs({run: outer for lines in seen for run, outer in lines.runs.outer.items()})
    yield from _guarded("deadlock", lambda: deadlocks(contended, runs))
    dispatched: dict[str, list[str]] = {}
    for queue, keys in (item for lines in seen for item in lines.dispatched.items()):
        dispatched.setdefault(queue, []).extend(keys)
    yield from _guarded("broker", lambda: of_broker(app, tasks, dispatched))
    yield from _guarded("visibility timeout", lambda: _of_visibility(app, tasks))


def _guarded(check: str, make: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check, and an error that ends it as one more: it must not hide other checks."""
    try:
        yield from make()
    except LockError as error:  # its text names the remedy
        yield Finding(check, "error", line_of(error))
    except Exception as error:
        yield Finding(check, "error", f"the check failed: {_named(error)}. Report this as a bug of celery-locks")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {line_of(error)}"


def _of_settings(app: Any, tasks: list[Any] | None) -> Iterator[Finding]:
    check_settings(app.conf)
    if tasks is not None:
        yield Finding("settings", "ok", f"{len(tasks)} locked {'task' if len(tasks) == 1 else 'tasks'}")


def _versions() -> str:
    return f"celery-locks {celery_locks.__version__}, Celery {celery.__version__}, Python {platform.python_version()}"


def _of_store(ctx: click.Context, name: str, tasks: list[Any], patience: float, seen: list[Lines]) -> Iterator[Finding]:
    locks, lines = locks_of(ctx, name), Lines()
    seen.append(lines)
    store, parks = locks.store, any(map(checks.parks, tasks))
    begun = time.monotonic()
    store.ping()
    took = (time.monotonic() - begun) * 1000
    yield Finding("store", "ok", f"{store.about()} at {locks.url}, prefix {locks.prefix}, answers in {took:.1f} ms")
    if not store.shared:
        yield Finding(
            "sharing", "warning", "other processes don't see the locks of this store. Set locks_url to another"
        )
    try:
        warnings = store.try_writes(locks.prefix, parks=parks)
    except StoreUnavailable as error:
        works = False
        yield Finding("writes", "error", line_of(error))
    except Exception as error:  # of a store of the site's own
        works = False
        yield Finding("writes", "error", f"a lock can't be tried: {_named(error)}. Fix the store")
    else:
        works = True
        yield from (Finding("writes", "warning", mask_text(warning)) for warning in warnings)
        if not warnings:
            yield Finding("writes", "ok", _tried(store, parks))
    yield from _guarded("store settings", lambda: _of_store_settings(store, parks))
    if store.lists and works:  # a look at the list takes what has expired from it
        yield from _guarded("waiters", lambda: [_of_waiters(locks, patience, lines)])


def _of_store_settings(store: Store, parks: bool) -> Iterator[Finding]:
    for check, result in store.checks(parks=parks).items():
        yield Finding(check, "warning" if is_warning(result) else "ok", mask_text(result) or _FINE.get(check, "fine"))


def _tried(store: Store, parks: bool) -> str:
    steps = ["acquired", "renewed", *["waited for"] * store.fair, "released"]
    parked = ", and a task was parked and dispatched" if parks and tickets_of(store) is not None else ""
    return f"a throwaway lock was {', '.join(steps[:-1])} and {steps[-1]}{parked}"


#: What a check of a store found when it found nothing.
_FINE = {
    "version": "new enough",
    "eviction": "no lease is evicted",
    "clock": "like this machine's",
    "persistence": "parked tasks survive a restart",
}


def _of_visibility(app: Any, tasks: list[Any] | None) -> Iterator[Finding]:
    if tasks is None:
        yield Finding("visibility timeout", "ok", "not known: the tasks can't be loaded")
        return
    warnings = checks.visibility_warnings(app.conf, tasks)
    for warning in warnings:
        yield Finding("visibility timeout", "warning", warning)
    if not warnings:
        yield Finding("visibility timeout", "ok", "longer than what tasks wait")


@dataclass
class Lines:
    """What is in line, or was dispatched and has not started, as far as a look at the list shows it.

    Attributes:
        idle: Keys, with their parts, that are free while a waiter or a parked task is in line.
        dispatched: For each queue in which messages of dispatched tasks wait, the keys that are kept for them.
        contended: Keys, with their parts, that are held while a waiter or a parked task is in line.
        runs: The runs that hold keys.
        complete: Whether all keys were looked at.
    """

    idle: list[Place] = field(default_factory=list)
    dispatched: dict[str, list[str]] = field(default_factory=dict)
    contended: list[Place] = field(default_factory=list)
    runs: Runs = field(default_factory=Runs)
    complete: bool = True

    def look(self, locks: Locks) -> None:
        """Look at all keys, up to `_MOST`."""
        after = None
        for _ in range(MOST_PAGES):
            page = locks.list(after=after, count=MOST_ON_A_PAGE)
            for item in page.items:
                place = Place(locks, item.key, item.part)
                if _is_idle(item):
                    self.idle.append(place)
                elif item.waiting:
                    self.contended.append(place)
                holders = read_all_holders(locks, item).holders  # a page names the earliest ones alone
                self.runs.add(holders)
                for holder in holders:
                    if holder.state == "dispatched" and holder.queue:
                        self.dispatched.setdefault(holder.queue, []).append(str(place))
            after = page.next
            if after is None:
                return
        self.complete = False


def _of_waiters(locks: Locks, patience: float, lines: Lines) -> Finding:
    """Check that no key is free, and stays free, while a waiter or a parked task is in line for it."""
    lines.look(locks)
    stuck = lines.idle
    deadline = time.monotonic() + patience
    while stuck and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
        stuck = [each for each in stuck if _is_idle(each.read())]
    if not stuck:
        fine = "no free key has a line" + ("" if lines.complete else f" among the first {_MOST} keys")
        waiting = [f"{len(keys)} in {one_line(queue)}" for queue, keys in sorted(lines.dispatched.items())]
        not_started = f"; dispatched tasks that have not started: {', '.join(waiting)}" if waiting else ""
        return Finding("waiters", "ok", fine + not_started)
    names = ", ".join(map(str, stuck[:MOST_NAMED])) + (", …" if len(stuck) > MOST_NAMED else "")
    count = "1 free key has" if len(stuck) == 1 else f"{len(stuck)} free keys have"
    return Finding(
        "waiters",
        "warning",
        f"{count} a line that no worker dispatches: {names}. Start a worker of the tasks that park, or run: "
        "celery -A … locks sweep",
    )


_MOST = MOST_PAGES * MOST_ON_A_PAGE


def _is_idle(item: LockInfo) -> bool:
    return bool(item.waiting) and not item.permits
