"""``show``: the holders of one key."""

from __future__ import annotations

import click

from celery_locks import StoreUnavailable
from celery_locks._durations import duration
from celery_locks._logging import one_line
from celery_locks._validation import DEFAULT_STORE
from celery_locks.cli.completion import quoted
from celery_locks.cli.escapes import printable
from celery_locks.cli.output import holder_text, in_store, key_text, lock_as_data, print_json, print_table
from celery_locks.cli.parameters import key_argument, locks_of, part_option, store_option, stores_of
from celery_locks.views import read_key


@click.command("show", short_help="Show the holders of one key.")
@key_argument()
@part_option
@store_option("the default store")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, key: str, part: str, store: str | None, as_json: bool) -> None:
    """Show the holders of KEY, since when and until when they hold it, and how many wait for it.

    Without --store it also names the other stores in which KEY is held.

    \b
    Example:
      celery -A proj locks show user:7
    """
    locks = locks_of(ctx, store)
    info, parts = read_key(locks, key, part)
    others = other_stores_with(ctx, key, part) if store is None else []
    if as_json:
        print_json({**lock_as_data(info), "parts": [each.part for each in parts], "other_stores": others})
        return
    held = f"{info.permits} of {info.limit} permits are held" if info.holders else "not held"
    click.echo(f"{key_text(key, part)}{in_store(locks)}: {held}, {info.waiting} waiting")
    if info.holders:
        rows = [
            (
                holder_text(each),
                duration(each.held_for),
                duration(each.expires_in),
                str(each.permits),
                str(each.fencing_token),
            )
            for each in info.holders
        ]
        print_table(("HELD BY", "FOR", "LEFT", "PERMITS", "FENCE"), rows)
    for each in parts:
        click.echo(f"Its part {each.part} is held, too: show it by --part {each.part}")
    for other in others:
        click.echo(f"It is held in the store {printable(other)}, too: show it by --store {quoted(printable(other))}")


def other_stores_with(ctx: click.Context, key: str, part: str) -> list[str]:
    """Return the names of the app's other stores in which a key is held. Print which ones can't be reached."""
    found = []
    for name, locks in stores_of(ctx, None).items():
        if name == DEFAULT_STORE:
            continue
        try:
            if locks.info(key, part).holders:
                found.append(name)
        except StoreUnavailable as error:
            click.echo(f"The store {printable(name)} can't be read: {one_line(str(error))}", err=True)
    return found
