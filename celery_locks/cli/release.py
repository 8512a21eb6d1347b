"""``release`` and ``wait``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import click

from celery_locks import Locks
from celery_locks._durations import duration
from celery_locks.cli.completion import as_typed, key_argument, optional_key_argument, quoted
from celery_locks.cli.escapes import printable
from celery_locks.cli.list_keys import held_elsewhere
from celery_locks.cli.output import (
    Seconds,
    held_by,
    in_store,
    locks_of,
    named,
    part_option,
    print_table,
    store_option,
    table_of,
)
from celery_locks.lock_info import LockInfo
from celery_locks.stores.types import Holder
from celery_locks.tasks.force_release import force_release_lease
from celery_locks.views import read_key, read_owned

#: How many holders a sentence names.
MAX_NAMED = 10
#: How many leases a question lists.
MAX_LISTED = 50


@click.command("release", short_help="Take a key from whoever holds it.")
@optional_key_argument
@part_option
@click.option(
    "--owner",
    callback=as_typed,
    help="Instead of a KEY: release all that this owner holds, and those within it, such as org:org_1. Give the whole "
    "name, as `list` shows it.",
)
@store_option("the default store")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.pass_context
def release_command(
    ctx: click.Context, key: str | None, part: str, owner: str | None, store: str | None, yes: bool
) -> None:
    """Take KEY from those who hold it, or all keys from an owner, and print whose they were.

    They lose it with the reason force_released, and a task's body is aborted: within 100 ms on Redis and PostgreSQL, at
    the next renewal on other stores. A holder that acquires a key while the question stands keeps it. The exit status
    is 1 when no lease was released.

    \b
    Examples:
      celery -A proj locks release user:7
      celery -A proj locks release --owner org:org_1
    """
    if owner is not None:
        if key is not None or part:
            raise click.UsageError("give KEY or --owner, not both")
        if not owner:
            raise click.UsageError("give an owner's whole name, as `list` shows it")
        _release_owned(locks_of(ctx, store), owner, yes)
    elif key is not None:
        _release_key(ctx, locks_of(ctx, store), key, part, yes, look_elsewhere=store is None)
    else:
        raise click.UsageError("give a KEY, or --owner")


def _release_owned(locks: Locks, owner: str, yes: bool) -> None:
    found = list(read_owned(locks, owner, "release --owner"))
    if not found:
        raise click.ClickException(
            f"{printable(owner)} holds no lease{in_store(locks)}: give an owner's whole name, as `list` shows it"
        )
    listed = [replace(info, holders=(holder,), permits=holder.permits) for info, holder in found[:MAX_LISTED]]
    print_table(*table_of(listed))
    if len(found) > MAX_LISTED:
        click.echo(f"and {len(found) - MAX_LISTED} more")
    if not yes:
        click.confirm(f"Release {_leases(len(found))} of {printable(owner)}{in_store(locks)}?", abort=True)
    released = sum(force_release_lease(locks, info.key, holder, info.part) for info, holder in found)
    if not released:
        raise click.ClickException(f"those leases of {printable(owner)} had ended: nothing was released")
    ended = f"; {_leases(len(found) - released)} had ended" if released < len(found) else ""
    click.echo(f"Released {_leases(released)} of {printable(owner)}{in_store(locks)}{ended}.")


def _leases(count: int) -> str:
    return "1 lease" if count == 1 else f"{count} leases"


def _release_key(ctx: click.Context, locks: Locks, key: str, part: str, yes: bool, look_elsewhere: bool) -> None:
    begun = time.monotonic()
    info, parts = read_key(locks, key, part)
    if not info.holders:
        hint = ": there is nothing to release"
        if parts:
            hint = f"; its part {parts[0].part} is held: give --part {parts[0].part}"
        elif look_elsewhere and (others := held_elsewhere(ctx, key, part)):
            name = printable(others[0])
            hint = f"; it is held in the store {name}: give --store {quoted(name)}"
        raise click.ClickException(f"nobody holds {named(key, part)}{in_store(locks)}{hint}")
    if not yes:
        names = f"{_names(info.holders)}{_and_more(info)}"
        click.confirm(f"Take {named(key, part)}{in_store(locks)} from {names}?", abort=True)
    freed: list[Holder] = []
    holders = info.holders
    while holders:  # a look names 100 at most
        ended = [holder for holder in holders if force_release_lease(locks, key, holder, part)]
        freed += ended
        info = locks.info(key, part)
        # Holders that acquired the key after the question keep it.
        before = [holder for holder in info.holders if holder.held_for > time.monotonic() - begun]
        holders = tuple(before) if ended else ()
    held_now = f"is held by {_names(info.holders)}{_and_more(info)}" if info.holders else "is free"
    if not freed:
        raise click.ClickException(
            f"those leases of {named(key, part)} had ended: nothing was released. It {held_now} now"
        )
    click.echo(f"Released {named(key, part)}{in_store(locks)}, which was held by {_names(freed)}.")
    if info.holders:
        click.echo(f"It {held_now} now.")


@click.command("wait", short_help="Wait until a key is free.")
@key_argument
@click.option("--timeout", type=Seconds(0), metavar="DURATION", help="The longest waiting; none by default.")
@store_option("the default store")
@click.pass_context
def wait_command(ctx: click.Context, key: str, timeout: float | None, store: str | None) -> None:
    """Waits in line until KEY could be had, and takes nothing. The exit status is 1 when it was not free in time.

    \b
    Example:
      celery -A proj locks wait deploy --timeout 60 && ./deploy.sh
    """
    lock = locks_of(ctx, store).lock(key)
    if not lock.wait(timeout=timeout):
        holders = lock.holders()
        who = f"it is held by {_names(holders)}" if holders else "others are before in line"
        raise click.ClickException(f"{printable(key)} was not free within {timeout:g} s: {who}")
    click.echo(f"{printable(key)} is free.")


def _names(holders: Sequence[Holder]) -> str:
    names = [f"{held_by(holder)} (for {duration(holder.held_for)})" for holder in holders[:MAX_NAMED]]
    return ", ".join(names) + (f" and {len(holders) - MAX_NAMED} more" if len(holders) > MAX_NAMED else "")


def _and_more(info: LockInfo) -> str:
    """Return what to add to the names of the holders where a look does not name all of them."""
    return "" if info.names_all else ", and others"
