"""``release``: release a key, or all keys of an owner, by force."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from celery_locks import Locks
from celery_locks.cli.completion import quoted
from celery_locks.cli.escapes import printable
from celery_locks.cli.output import holders_text, in_store, key_text, print_table, table_of
from celery_locks.cli.parameters import key_argument, locks_of, part_option, read_escapes, store_option
from celery_locks.cli.show_command import other_stores_with
from celery_locks.stores.types import Holder
from celery_locks.views import read_key, read_owned, release_lease

#: How many leases the question of ``release --owner`` lists.
MOST_LISTED_LEASES = 50


@click.command("release", short_help="Release a key, or all keys of an owner, by force.")
@key_argument(required=False)
@part_option
@click.option(
    "--owner",
    callback=read_escapes,
    help="Instead of KEY: release all keys that this owner holds, and the owners within it, such as org:org_1. Give "
    "the whole name, as `list` prints it.",
)
@store_option("the default store")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@click.pass_context
def command(ctx: click.Context, key: str | None, part: str, owner: str | None, store: str | None, yes: bool) -> None:
    """Release KEY, or all keys of an owner, by force, and print the holders that lost them.

    The holders lose their leases with the reason force_released, and the bodies of their tasks are aborted: within
    100 ms on Redis and PostgreSQL, at the next renewal on other stores. A holder that acquires a key while the command
    asks for confirmation keeps it. The exit status is 1 if no lease was released.

    \b
    Examples:
      celery -A proj locks release user:7
      celery -A proj locks release --owner org:org_1
    """
    if owner is not None:
        if key is not None or part:
            raise click.UsageError("give KEY or --owner, not both")
        if not owner:
            raise click.UsageError("give an owner's whole name, as `list` prints it")
        _release_owned(locks_of(ctx, store), owner, yes)
    elif key is not None:
        _release_key(ctx, locks_of(ctx, store), key, part, yes, search_other_stores=store is None)
    else:
        raise click.UsageError("give a KEY, or --owner")


def _release_owned(locks: Locks, owner: str, yes: bool) -> None:
    found = list(read_owned(locks, owner, "release --owner"))
    whose = f"{printable(owner)}{in_store(locks)}"
    if not found:
        raise click.ClickException(
            f"{printable(owner)} holds no lease{in_store(locks)}: give an owner's whole name, as `list` prints it"
        )
    listed = [replace(info, holders=(holder,), permits=holder.permits) for info, holder in found[:MOST_LISTED_LEASES]]
    print_table(*table_of(listed))
    if len(found) > MOST_LISTED_LEASES:
        click.echo(f"and {len(found) - MOST_LISTED_LEASES} more")
    if not yes:
        click.confirm(f"Release {_leases(len(found))} of {whose}?", abort=True)
    released = sum(release_lease(locks, info.key, holder, info.part) for info, holder in found)
    if not released:
        raise click.ClickException(f"those leases of {printable(owner)} had ended: nothing was released")
    ended = f"; {_leases(len(found) - released)} had ended" if released < len(found) else ""
    click.echo(f"Released {_leases(released)} of {whose}{ended}.")


def _leases(count: int) -> str:
    return "1 lease" if count == 1 else f"{count} leases"


def _release_key(ctx: click.Context, locks: Locks, key: str, part: str, yes: bool, search_other_stores: bool) -> None:
    started = time.monotonic()
    info, parts = read_key(locks, key, part)
    which = f"{key_text(key, part)}{in_store(locks)}"
    if not info.holders:
        hint = ": there is nothing to release"
        if parts:
            hint = f"; its part {parts[0].part} is held: give --part {parts[0].part}"
        elif search_other_stores and (others := other_stores_with(ctx, key, part)):
            name = printable(others[0])
            hint = f"; it is held in the store {name}: give --store {quoted(name)}"
        raise click.ClickException(f"{which} is not held{hint}")
    if not yes:
        click.confirm(f"Release {which}, which is held by {holders_text(info.holders, info.names_all)}?", abort=True)
    released: list[Holder] = []
    holders = info.holders
    while holders:  # a read names at most 100 of them
        ended = [holder for holder in holders if release_lease(locks, key, holder, part)]
        released += ended
        info = locks.info(key, part)
        # Holders that acquired the key after the question keep it.
        before = [holder for holder in info.holders if holder.held_for > time.monotonic() - started]
        holders = tuple(before) if ended else ()
    state = f"is held by {holders_text(info.holders, info.names_all)}" if info.holders else "is free"
    if not released:
        raise click.ClickException(
            f"those leases of {key_text(key, part)} had ended: nothing was released. It {state} now"
        )
    click.echo(f"Released {which}, which was held by {holders_text(released)}.")
    if info.holders:
        click.echo(f"It {state} now.")
