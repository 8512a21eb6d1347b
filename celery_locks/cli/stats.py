"""``stats`` and ``sweep``."""

from __future__ import annotations

from typing import Any

import click

from celery_locks import Locks
from celery_locks._durations import duration
from celery_locks.cli.doctor_broker import error_text
from celery_locks.cli.escapes import printable
from celery_locks.cli.output import Seconds, in_store, lists_of, named, print_json, store_option, stores_of
from celery_locks.lock_info import Stats
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.publish import publish_dispatched
from celery_locks.views import NEAR_SECONDS, read_stats, stats_fields

#: How many locks one look of a sweep passes, and how many looks it takes at most.
LOCKS, LOOKS = 1_000, 100


@click.command("stats", short_help="How many keys are held, how many wait.")
@click.option(
    "--near",
    type=Seconds(0),
    default=NEAR_SECONDS,
    show_default=True,
    metavar="DURATION",
    help="How soon a lease is near its end.",
)
@store_option("all of them")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def stats_command(ctx: click.Context, near: float, store: str | None, as_json: bool) -> None:
    """How many keys are held, how many wait, and which key is held for longest: in all stores, and in each of several.

    \b
    Example:
      celery -A proj locks stats --json
    """
    by_store = read_stats(lists_of(ctx, store), near)
    stats = Stats.total(by_store.values())
    if as_json:
        print_json({**stats_fields(stats), "stores": {name: stats_fields(each) for name, each in by_store.items()}})
        return
    _print_stats(stats, near)
    for name, each in by_store.items() if len(by_store) > 1 else ():
        click.echo(f"\nin the store {printable(name)}:")
        _print_stats(each, near)


def _print_stats(stats: Stats, near: float) -> None:
    least = "" if stats.complete else "at least "
    click.echo(f"keys held or waited for:  {least}{stats.locks}")
    click.echo(f"leases:                   {least}{stats.holders}")
    click.echo(f"ending within {near:g} s:".ljust(26) + f"{least}{stats.near_expiry}")
    click.echo(f"waiting:                  {least}{stats.waiting}")
    if stats.oldest is not None:
        click.echo(
            f"held for longest:         {named(stats.oldest, stats.oldest_part)}, {duration(stats.oldest_held_for)}"
        )


@click.command("sweep", short_help="Send on parked tasks that are stuck.")
@store_option("all of them")
@click.pass_context
def sweep_command(ctx: click.Context, store: str | None) -> None:
    """Dispatch now what workers dispatch every few seconds: parked tasks that are overdue.

    Only tasks of this app's broker are dispatched. No lease is touched, and no task runs twice by it.

    \b
    Example:
      celery -A proj locks sweep
    """
    for locks in stores_of(ctx, store).values():
        _sweep(ctx.obj.app, locks)


def _sweep(app: Any, locks: Locks) -> None:
    parking = tickets_of(locks.store)
    if parking is None:
        click.echo(f"No task parks in a {type(locks.store).__name__}: there is nothing to sweep{in_store(locks)}.")
        return
    before = now = _waiting(locks)
    connection = None
    try:
        connection = app.connection_for_write()
        connection.ensure_connection(max_retries=1, timeout=5)
    except Exception as error:  # whatever the broker's client raises
        raise click.ClickException(f"the broker can't be reached: {error_text(app, connection, error)}") from None
    with connection:
        for _ in range(LOOKS):
            dispatches = parking.sweep(locks.prefix, broker_id(app), LOCKS)
            publish_dispatched(app, parking, dispatches, connection)
            # A store that is the broker as well has published them itself.
            earlier, now = now, _waiting(locks)
            if not dispatches and now == earlier:
                break
    click.echo(f"Swept. In line{in_store(locks)}: {before} before, {now} now.")


def _waiting(locks: Locks) -> str:
    """Return how many are in line, as far as the store counts them."""
    if not locks.store.lists:
        return "an unknown number"
    stats = locks.stats()
    return f"{'' if stats.complete else 'at least '}{stats.waiting}"
