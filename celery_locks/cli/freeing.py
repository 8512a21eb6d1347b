"""``release`` and ``wait``."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from celery_locks.cli.completion import key_argument
from celery_locks.cli.escapes import printable
from celery_locks.cli.output import Seconds, held_by, locks_of, named, part_option
from celery_locks.durations import duration
from celery_locks.listing import LockInfo, parts_of
from celery_locks.stores.base import Holder
from celery_locks.tasks.freeing import free

#: How many holders a sentence names.
MAX_NAMED = 10


@click.command("release", short_help="Take a key from whoever holds it.")
@key_argument
@part_option
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.pass_context
def release_command(ctx: click.Context, key: str, part: str, yes: bool) -> None:
    """Takes KEY from those who hold it, and says whose it was.

    They lose it with the reason force_released, and a task's body is aborted: within 100 ms on Redis and PostgreSQL, at
    the next renewal on other stores. A holder that acquires the key while the question stands keeps it. The exit status
    is 1 when none of those held it any more.

    \b
    Example:
      celery -A proj locks release user:7
    """
    locks, begun = locks_of(ctx), time.monotonic()
    info = locks.info(key, part)
    if not info.holders:
        others = [] if part else [other.part for other in parts_of(locks, info.key)]
        hint = f"; its part {others[0]} is held: give --part {others[0]}" if others else ": there is nothing to release"
        raise click.ClickException(f"nobody holds {named(key, part)}{hint}")
    if not yes:
        click.confirm(f"Take {named(key, part)} from {_names(info.holders)}{_and_more(info)}?", abort=True)
    freed: list[Holder] = []
    holders = info.holders
    while holders:  # a look names 100 at most
        ended = [holder for holder in holders if free(locks, key, holder, part)]
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
    click.echo(f"Released {named(key, part)}, which was held by {_names(freed)}.")
    if info.holders:
        click.echo(f"It {held_now} now.")


@click.command("wait", short_help="Wait until a key is free.")
@key_argument
@click.option("--timeout", type=Seconds(0), metavar="DURATION", help="The longest waiting; none by default.")
@click.pass_context
def wait_command(ctx: click.Context, key: str, timeout: float | None) -> None:
    """Waits in line until KEY could be had, and takes nothing. The exit status is 1 when it was not free in time.

    \b
    Example:
      celery -A proj locks wait deploy --timeout 60 && ./deploy.sh
    """
    lock = locks_of(ctx).lock(key)
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
