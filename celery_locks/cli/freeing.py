"""``release`` and ``wait``."""

from __future__ import annotations

from collections.abc import Iterable

import click

from celery_locks.cli.completion import key_argument
from celery_locks.cli.escapes import printable
from celery_locks.cli.output import held_by, locks_of, named, part_option
from celery_locks.durations import duration
from celery_locks.stores.base import Holder
from celery_locks.tasks.freeing import free


@click.command("release", short_help="Take a key from whoever holds it.")
@key_argument
@part_option
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.pass_context
def release_command(ctx: click.Context, key: str, part: str, yes: bool) -> None:
    """Takes KEY from those who hold it, and says whose it was.

    They learn of it at their next renewal: a task's body is then aborted. Who acquires the key while the question
    stands keeps it. The exit status is 1 when none of those held it any more.

    \b
    Example:
      celery -A proj locks release user:7
    """
    locks = locks_of(ctx)
    holders = locks.info(key, part).holders
    if not holders:
        raise click.ClickException(f"nobody holds {named(key, part)}: there is nothing to release")
    if not yes:
        click.confirm(f"Take {named(key, part)} from {_names(holders)}?", abort=True)
    freed = [holder for holder in holders if free(locks, ctx.obj.app, key, holder, part)]
    if not freed:
        now = locks.info(key, part).holders
        what_is = f"It is held by {_names(now)} now" if now else "It is free now"
        raise click.ClickException(f"those leases of {named(key, part)} had ended: nothing was released. {what_is}")
    click.echo(f"Released {named(key, part)}, which was held by {_names(freed)}.")


@click.command("wait", short_help="Wait until a key is free.")
@key_argument
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="The longest waiting; none by default.")
@click.pass_context
def wait_command(ctx: click.Context, key: str, timeout: float | None) -> None:
    """Waits in line until KEY could be had, and takes nothing. The exit status is 1 when it was not free in time.

    \b
    Example:
      celery -A proj locks wait deploy --timeout 60 && ./deploy.sh
    """
    lock = locks_of(ctx).lock(key)
    if not lock.wait(timeout):
        holders = lock.holders()
        who = f"it is held by {_names(holders)}" if holders else "others are before in line"
        raise click.ClickException(f"{printable(key)} was not free within {timeout:g} s: {who}")
    click.echo(f"{printable(key)} is free.")


def _names(holders: Iterable[Holder]) -> str:
    return ", ".join(f"{held_by(holder)} (for {duration(holder.held_for)})" for holder in holders)
