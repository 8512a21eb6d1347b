"""``wait``: wait until a key is free."""

from __future__ import annotations

import click

from celery_locks.cli.escapes import printable
from celery_locks.cli.output import holders_text
from celery_locks.cli.parameters import Seconds, key_argument, locks_of, store_option


@click.command("wait", short_help="Wait until a key is free.")
@key_argument()
@click.option("--timeout", type=Seconds(0), metavar="DURATION", help="How long to wait at most; by default forever.")
@store_option("the default store")
@click.pass_context
def command(ctx: click.Context, key: str, timeout: float | None, store: str | None) -> None:
    """Wait in line until KEY is free, without acquiring it. The exit status is 1 after a timeout.

    \b
    Example:
      celery -A proj locks wait deploy --timeout 60 && ./deploy.sh
    """
    lock = locks_of(ctx, store).lock(key)
    if not lock.wait(timeout=timeout):
        holders = lock.holders()
        why = f"it is held by {holders_text(holders)}" if holders else "others are ahead in line"
        raise click.ClickException(f"{printable(key)} was not free within {timeout:g} s: {why}")
    click.echo(f"{printable(key)} is free.")
