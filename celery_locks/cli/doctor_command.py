"""``doctor``: check everything that locks need, and print a remedy for each problem."""

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
from celery_locks import LockError, LockInfo, Locks, StoreUnavailable
from celery_locks._addresses import mask_text
from celery_locks._logging import one_line
from celery_locks._validation import DEFAULT_STORE
from celery_locks.cli.doctor_broker import check_broker
from celery_locks.cli.doctor_deadlocks import Place, Runs, deadlocks
from celery_locks.cli.doctor_results import Finding, line_of
from celery_locks.cli.list_command import MOST_PAGES
from celery_locks.cli.output import print_json
from celery_locks.cli.parameters import Seconds, locks_of, store_option
from celery_locks.lock_info import MOST_ON_A_PAGE
from celery_locks.locks import store_names
from celery_locks.stores import Store
from celery_locks.stores.check_results import is_warning
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks.settings_check import check_settings
from celery_locks.tasks.worker import checks
from celery_locks.views import read_all_holders

#: Seconds after which a dead waiter has been passed over, and a worker that sweeps has swept.
PATIENCE_SECONDS = 12.0
#: Seconds between two reads of a line.
READ_INTERVAL_SECONDS = 0.25
#: How many stuck keys a finding names.
MOST_NAMED = 5
#: The exit status by the worst finding.
EXIT_STATUS = {"ok": 0, "warning": 1, "error": 2}
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command("doctor", short_help="Check the store, the broker and the settings.")
@click.option(
    "--patience",
    type=Seconds(0),
    default=PATIENCE_SECONDS,
    show_default=True,
    metavar="DURATION",
    help="How long a free key that has waiters is watched before it is reported as stuck.",
)
@store_option("all stores")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, patience: float, store: str | None, as_json: bool) -> None:
    """Check settings, store, broker, workers and waiters. Print a remedy for each problem.

    The command acquires and releases a throwaway lock, and sends a message to a throwaway queue. The exit status is 0
    if all is well, 1 if something may break locks, and 2 if locks don't work.

    \b
    Example:
      celery -A proj locks doctor || mail -s "locks" ops@example.org
    """
    found, has_several_stores = [], len(_store_names(ctx)) > 1
    for finding in examine(ctx, patience, store):
        found.append(finding)
        if not as_json:
            status = click.style(finding.status.ljust(7), fg=_COLOURS[finding.status])
            check = (
                f"{finding.check} ({one_line(finding.store)})"
                if has_several_stores and finding.store
                else finding.check
            )
            click.echo(f"{status}  {check}: {one_line(finding.text)}", color=False if ctx.obj.no_color else None)
    if as_json:
        print_json([asdict(finding) for finding in found])
    ctx.exit(max(EXIT_STATUS[finding.status] for finding in found))


def _store_names(ctx: click.Context) -> tuple[str, ...]:
    try:
        return store_names(ctx.obj.app.conf)
    except LockError:  # a check reports it
        return (DEFAULT_STORE,)


def examine(ctx: click.Context, patience: float, store: str | None = None) -> Iterator[Finding]:
    """Yield the results of all checks that are possible, of one store or of all stores."""
    app = ctx.obj.app
    ours, python = celery_locks.__version__, platform.python_version()
    yield Finding("versions", "ok", f"celery-locks {ours}, Celery {celery.__version__}, Python {python}")
    tasks: list[Any] | None = None
    try:
        app.loader.import_default_modules()
        app.finalize(auto=True)
        tasks = checks.locked_tasks(app)
    except LockError as error:  # its text names the remedy
        yield Finding("settings", "error", line_of(error))
    except Exception as error:  # the modules are the user's own
        yield Finding("settings", "error", f"the tasks can't be loaded: {_named(error)}. Fix the module that raises it")
    yield from _guarded("settings", lambda: _check_settings(app, tasks))
    seen: list[Lines] = []
    for name in _store_names(ctx) if store is None else (store,):
        own = [task for task in tasks or () if task.lock_options.store == name]
        check_store = partial(_check_store, ctx, name, own, patience, seen)
        yield from (replace(finding, store=name) for finding in _guarded("store", check_store))
    contended = [place for lines in seen for place in lines.contended]
    runs = Runs({run: outer for lines in seen for run, outer in lines.runs.outer.items()})
    yield from _guarded("deadlock", lambda: deadlocks(contended, runs))
    dispatched: dict[str, list[str]] = {}
    for queue, keys in (item for lines in seen for item in lines.dispatched.items()):
        dispatched.setdefault(queue, []).extend(keys)
    yield from _guarded("broker", lambda: check_broker(app, tasks, dispatched))
    yield from _guarded("visibility timeout", lambda: _check_visibility(app, tasks))


def _guarded(check: str, make: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check, and an error of the check as one more, so that other checks still run."""
    try:
        yield from make()
    except LockError as error:  # its text names the remedy
        yield Finding(check, "error", line_of(error))
    except Exception as error:
        yield Finding(check, "error", f"the check failed: {_named(error)}. Report this as a bug of celery-locks")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {line_of(error)}"


def _check_settings(app: Any, tasks: list[Any] | None) -> Iterator[Finding]:
    check_settings(app.conf)
    if tasks is not None:
        yield Finding("settings", "ok", "1 locked task" if len(tasks) == 1 else f"{len(tasks)} locked tasks")


def _check_store(
    ctx: click.Context, name: str, tasks: list[Any], patience: float, seen: list[Lines]
) -> Iterator[Finding]:
    locks, lines = locks_of(ctx, name), Lines()
    seen.append(lines)
    store, parks = locks.store, any(map(checks.parks, tasks))
    started = time.monotonic()
    store.ping()
    took = (time.monotonic() - started) * 1000
    yield Finding("store", "ok", f"{store.about()} at {locks.url}, prefix {locks.prefix}, answers in {took:.1f} ms")
    if not store.shared:
        yield Finding(
            "sharing", "warning", "other processes don't see the locks of this store. Set locks_url to another store"
        )
    try:
        warnings = store.try_writes(locks.prefix, parks=parks)
    except StoreUnavailable as error:
        works = False
        yield Finding("writes", "error", line_of(error))
    except Exception as error:  # the store may be the site's own
        works = False
        yield Finding("writes", "error", f"a lock can't be tried: {_named(error)}. Fix the store")
    else:
        works = True
        yield from (Finding("writes", "warning", mask_text(warning)) for warning in warnings)
        if not warnings:
            yield Finding("writes", "ok", _tried(store, parks))
    yield from _guarded("store settings", lambda: _check_store_settings(store, parks))
    if store.lists and works:  # a read of the list removes expired leases
        yield from _guarded("waiters", lambda: [_check_waiters(locks, patience, lines)])


def _check_store_settings(store: Store, parks: bool) -> Iterator[Finding]:
    for check, result in store.checks(parks=parks).items():
        yield Finding(check, "warning" if is_warning(result) else "ok", mask_text(result) or _FINE.get(check, "fine"))


def _tried(store: Store, parks: bool) -> str:
    steps = ["acquired", "renewed", *["waited for"] * store.fair, "released"]
    parked = ", and a task was parked and dispatched" if parks and tickets_of(store) is not None else ""
    return f"a throwaway lock was {', '.join(steps[:-1])} and {steps[-1]}{parked}"


#: The text of a check of a store that found no problem.
_FINE = {
    "version": "new enough",
    "eviction": "no lease is evicted",
    "clock": "like this machine's",
    "persistence": "parked tasks survive a restart",
}


def _check_visibility(app: Any, tasks: list[Any] | None) -> Iterator[Finding]:
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
    """The lines of a store, and its dispatched tasks that have not started, as read from its list of keys.

    Attributes:
        idle: Keys and parts that are free while a waiter or a parked task is in line.
        dispatched: The queues in which messages of dispatched tasks wait, with the keys reserved for these tasks.
        contended: Keys and parts that are held while a waiter or a parked task is in line.
        runs: The runs that hold keys.
        complete: Whether all keys were read.
    """

    idle: list[Place] = field(default_factory=list)
    dispatched: dict[str, list[str]] = field(default_factory=dict)
    contended: list[Place] = field(default_factory=list)
    runs: Runs = field(default_factory=Runs)
    complete: bool = True

    def read(self, locks: Locks) -> None:
        """Read all keys, up to `_MOST_KEYS`."""
        after = None
        for _ in range(MOST_PAGES):
            page = locks.list(after=after, count=MOST_ON_A_PAGE)
            for item in page.items:
                place = Place(locks, item.key, item.part)
                if _is_idle(item):
                    self.idle.append(place)
                elif item.waiting:
                    self.contended.append(place)
                holders = read_all_holders(locks, item).holders  # a page names only the earliest
                self.runs.add(holders)
                for holder in holders:
                    if holder.state == "dispatched" and holder.queue:
                        self.dispatched.setdefault(holder.queue, []).append(str(place))
            after = page.next
            if after is None:
                return
        self.complete = False


def _check_waiters(locks: Locks, patience: float, lines: Lines) -> Finding:
    """Check that no key stays free while a waiter or a parked task is in line for it."""
    lines.read(locks)
    stuck = lines.idle
    deadline = time.monotonic() + patience
    while stuck and time.monotonic() < deadline:
        time.sleep(READ_INTERVAL_SECONDS)
        stuck = [each for each in stuck if _is_idle(each.read())]
    if not stuck:
        fine = "no free key has a line" + ("" if lines.complete else f" among the first {_MOST_KEYS} keys")
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


_MOST_KEYS = MOST_PAGES * MOST_ON_A_PAGE


def _is_idle(item: LockInfo) -> bool:
    return bool(item.waiting) and not item.permits
