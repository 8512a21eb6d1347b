"""``sweep``: dispatch parked tasks that are overdue."""

from __future__ import annotations

from typing import Any

import click

from celery_locks import Locks
from celery_locks.cli.doctor_broker import error_text
from celery_locks.cli.output import in_store
from celery_locks.cli.parameters import store_option, stores_of
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.publish import publish_dispatched
from celery_locks.views import at_least

#: How many locks one step of a sweep reads, and how many steps it takes at most.
LOCKS_PER_STEP, MOST_STEPS = 1_000, 100


@click.command("sweep", short_help="Dispatch parked tasks that are overdue.")
@store_option("all stores")
@click.pass_context
def command(ctx: click.Context, store: str | None) -> None:
    """Dispatch parked tasks that are overdue. Workers do the same every few seconds.

    Only tasks of this app's broker are dispatched. No lease is changed, and no task runs twice because of it.

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
        for _ in range(MOST_STEPS):
            dispatches = parking.sweep(locks.prefix, broker_id(app), LOCKS_PER_STEP)
            publish_dispatched(app, parking, dispatches, connection)
            # A store that is also the broker has published the messages itself, and returns none.
            earlier, now = now, _waiting(locks)
            if not dispatches and now == earlier:
                break
    click.echo(f"Swept. In line{in_store(locks)}: {before} before, {now} now.")


def _waiting(locks: Locks) -> str:
    """Return how many wait in line, if the store counts them."""
    if not locks.store.lists:
        return "an unknown number"
    stats = locks.stats()
    return f"{at_least(stats.complete)}{stats.waiting}"
