"""``stats``: figures over all keys."""

from __future__ import annotations

import click

from celery_locks import Stats
from celery_locks._durations import duration
from celery_locks.cli.escapes import printable
from celery_locks.cli.output import key_text, print_json
from celery_locks.cli.parameters import Seconds, listing_stores_of, store_option
from celery_locks.views import NEAR_SECONDS, at_least, read_stats, stats_fields


@click.command("stats", short_help="Count the keys that are held, and their waiters.")
@click.option(
    "--near",
    type=Seconds(0),
    default=NEAR_SECONDS,
    show_default=True,
    metavar="DURATION",
    help="Count a lease as near its expiry if it has less time left.",
)
@store_option("all stores")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, near: float, store: str | None, as_json: bool) -> None:
    """Count the keys that are held and their waiters, and name the key that has been held for longest.

    If the app has several stores, the figures of all of them are followed by the figures of each.

    \b
    Example:
      celery -A proj locks stats --json
    """
    by_store = read_stats(listing_stores_of(ctx, store), near)
    stats = Stats.total(by_store.values())
    if as_json:
        print_json({**stats_fields(stats), "stores": {name: stats_fields(each) for name, each in by_store.items()}})
        return
    _print_stats(stats, near)
    for name, each in by_store.items() if len(by_store) > 1 else ():
        click.echo(f"\nin the store {printable(name)}:")
        _print_stats(each, near)


def _print_stats(stats: Stats, near: float) -> None:
    least = at_least(stats.complete)
    click.echo(f"keys held or waited for:  {least}{stats.locks}")
    click.echo(f"leases:                   {least}{stats.holders}")
    click.echo(f"expiring within {near:g} s:".ljust(26) + f"{least}{stats.near_expiry}")
    click.echo(f"waiting:                  {least}{stats.waiting}")
    if stats.oldest is not None:
        oldest = key_text(stats.oldest, stats.oldest_part)
        click.echo(f"held for longest:         {oldest}, {duration(stats.oldest_held_for)}")
