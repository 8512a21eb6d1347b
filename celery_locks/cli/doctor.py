"""``doctor``: looks at all that locks need, and says what to do about what is wrong."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import celery
import click

import celery_locks
from celery_locks import LockError, Locks
from celery_locks.cli.output import locks_of, print_json, printable
from celery_locks.cli.seeing import MOST_PAGES
from celery_locks.listing import MOST_ON_A_PAGE, LockInfo
from celery_locks.stores import mask_text
from celery_locks.tasks import checks
from celery_locks.tasks.options import check_settings

#: By now a dead waiter was passed over, and a worker that sweeps has swept.
PATIENCE = 12.0
#: Seconds between two looks at waiters.
LOOK_EVERY = 0.25
#: How many stuck keys are named.
MOST_NAMED = 5
#: The exit status by what was found worst.
STATUS = {"ok": 0, "warning": 1, "error": 2}
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@dataclass(frozen=True)
class Finding:
    """What became of one check.

    Attributes:
        check: What was looked at.
        status: ``error`` when locks don't work, ``warning`` when they may break.
        text: What was found; with the remedy, when it is not ok.
    """

    check: str
    status: Literal["ok", "warning", "error"]
    text: str


@click.command("doctor", short_help="Check the store, the broker and the settings.")
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=PATIENCE,
    show_default=True,
    metavar="SECONDS",
    help="How long a free key with somebody in line is watched before it counts as stuck.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor_command(ctx: click.Context, patience: float, as_json: bool) -> None:
    """Looks at all that locks need: settings, store, clocks, broker, waiters; says what to do about what is wrong.

    The exit status is 0 when all is well, 1 when something may break locks, 2 when they don't work.

    \b
    Example:
      celery -A proj locks doctor || mail -s "locks" ops@example.org
    """
    found = []
    for finding in examine(ctx, patience):
        found.append(finding)
        if not as_json:
            status = click.style(finding.status.ljust(7), fg=_COLOURS[finding.status])
            click.echo(f"{status}  {finding.check}: {finding.text}", color=False if ctx.obj.no_color else None)
    if as_json:
        print_json([asdict(finding) for finding in found])
    ctx.exit(max(STATUS[finding.status] for finding in found))


def examine(ctx: click.Context, patience: float) -> Iterator[Finding]:
    """Does all checks that can be done."""
    app = ctx.obj.app
    yield Finding("versions", "ok", _versions())
    tasks: list[Any] = []
    try:
        app.loader.import_default_modules()
        app.finalize(auto=True)
        check_settings(app.conf)
        tasks = checks.locked_tasks(app)
        yield Finding("settings", "ok", f"{len(tasks)} locked {'task' if len(tasks) == 1 else 'tasks'}")
    except LockError as error:
        yield Finding("settings", "error", _text(error))
    try:
        locks = locks_of(ctx)
        yield from _of_store(locks, tasks, patience)
    except LockError as error:  # its text names the remedy
        yield Finding("store", "error", _text(error))
    yield from _of_broker(app, tasks)


def _versions() -> str:
    return f"celery-locks {celery_locks.__version__}, Celery {celery.__version__}, Python {platform.python_version()}"


def _of_store(locks: Locks, tasks: list[Any], patience: float) -> Iterator[Finding]:
    begun = time.monotonic()
    locks.store.ping()
    took = (time.monotonic() - begun) * 1000
    yield Finding(
        "store", "ok", f"{locks.store.about()} at {locks.url}, prefix {locks.prefix}, answers in {took:.1f} ms"
    )
    if not locks.store.shared:
        yield Finding(
            "sharing", "warning", "other processes don't see the locks of this store. Set locks_url to another"
        )
    for check, warning in locks.store.checks(parks=any(map(checks.parks, tasks))).items():
        yield Finding(check, "warning" if warning else "ok", warning or _FINE.get(check, "fine"))
    if locks.store.lists:
        yield _of_waiters(locks, patience)


#: What a check of a store found when it found nothing.
_FINE = {
    "version": "new enough",
    "eviction": "no lease is evicted",
    "clock": "like this machine's",
    "persistence": "parked tasks survive a restart",
}


def _of_broker(app: Any, tasks: list[Any]) -> Iterator[Finding]:
    with app.connection_for_read() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
        except Exception as error:  # whatever the broker's client raises
            text = f"{_text(error)}. Start the broker, or set broker_url to where it is: {connection.as_uri()}"
            yield Finding("broker", "error", text)
        else:
            yield Finding("broker", "ok", f"reached at {connection.as_uri()}")
    warnings = checks.of_visibility(app.conf, tasks)
    for warning in warnings:
        yield Finding("visibility timeout", "warning", warning)
    if not warnings:
        yield Finding("visibility timeout", "ok", "longer than what tasks wait")


def _of_waiters(locks: Locks, patience: float) -> Finding:
    """Whether somebody waits for a key that nobody holds, and goes on to."""
    stuck, complete = _idle_with_waiters(locks)
    deadline = time.monotonic() + patience
    while stuck and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
        stuck = [key for key in stuck if _is_idle(locks.info(key))]
    if not stuck:
        return Finding("waiters", "ok", "none is stuck" if complete else f"none is stuck among the first {_MOST} keys")
    names = ", ".join(map(printable, stuck[:MOST_NAMED])) + (", …" if len(stuck) > MOST_NAMED else "")
    return Finding(
        "waiters",
        "warning",
        f"{len(stuck)} free keys have somebody in line whom nobody calls: {names}. Start a worker of the tasks that "
        "park, which sends them on, or run: celery -A … locks sweep",
    )


_MOST = MOST_PAGES * MOST_ON_A_PAGE


def _idle_with_waiters(locks: Locks) -> tuple[list[str], bool]:
    """The keys that are free while somebody is in line; and whether all keys were looked at."""
    idle: list[str] = []
    after = None
    for _ in range(MOST_PAGES):
        page = locks.list(after=after, count=MOST_ON_A_PAGE)
        idle += [item.key for item in page.items if _is_idle(item)]
        after = page.next
        if after is None:
            return idle, True
    return idle, False


def _is_idle(item: LockInfo) -> bool:
    return bool(item.waiting) and not item.permits


def _text(error: Exception) -> str:
    return mask_text(" ".join(str(error).split()).rstrip(".") or type(error).__name__)
