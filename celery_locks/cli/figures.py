"""``stats`` and ``sweep``."""

from __future__ import annotations

from dataclasses import asdict

import click

from celery_locks import Locks
from celery_locks.cli.broker import error_text
from celery_locks.cli.output import Seconds, locks_of, named, print_json
from celery_locks.durations import duration
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks.brokers import broker_id
from celery_locks.tasks.dispatch import publish_dispatched

#: How many locks one look of a sweep passes, and how many looks it takes at most.
LOCKS, LOOKS = 1_000, 100


@click.command("stats", short_help="How many keys are held, how many wait.")
@click.option(
    "--near",
    type=Seconds(0),
    default=10,
    show_default=True,
    metavar="DURATION",
    help="How soon a lease is near its end.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def stats_command(ctx: click.Context, near: float, as_json: bool) -> None:
    """How many keys are held, how many wait, and which key is held for longest.

    \b
    Example:
      celery -A proj locks stats --json
    """
    stats = locks_of(ctx).stats(near)
    if as_json:
        print_json(asdict(stats))
        return
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
@click.pass_context
def sweep_command(ctx: click.Context) -> None:
    """Dispatch at once what workers dispatch every few seconds: parked tasks that are overdue.

    Only tasks of this app's broker are dispatched. No lease is touched, and no task runs twice by it.

    \b
    Example:
      celery -A proj locks sweep
    """
    locks, app = locks_of(ctx), ctx.obj.app
    parking = tickets_of(locks.store)
    if parking is None:
        click.echo(f"No task parks in a {type(locks.store).__name__}: there is nothing to sweep.")
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
    click.echo(f"Swept. In line: {before} before, {now} now.")


def _waiting(locks: Locks) -> str:
    """Return how many are in line, as far as the store counts them."""
    if not locks.store.lists:
        return "an unknown number"
    stats = locks.stats()
    return f"{'' if stats.complete else 'at least '}{stats.waiting}"
