"""``sql``: the statements that make the tables of a database store."""

from __future__ import annotations

import click

from celery_locks import LockConfigError
from celery_locks._validation import DEFAULT_STORE
from celery_locks.cli.parameters import store_option
from celery_locks.locks import app_store
from celery_locks.stores import schema_sql


@click.command("sql", short_help="Print the statements that make the tables of a database store.")
@click.argument("url", required=False)
@click.option("--upgrade", is_flag=True, help="Print only the statements that upgrade the tables of an older version.")
@store_option("the default store")
@click.pass_context
def command(ctx: click.Context, url: str | None, upgrade: bool, store: str | None) -> None:
    """Print the statements that make the tables of the store at URL, or of the app's store, for a migration.

    The command connects to nothing, and the statements can be run again. If its database user has the rights, a store
    creates and upgrades its tables itself.

    \b
    Examples:
      celery -A proj locks sql | psql shop
      celery locks sql postgresql://localhost/shop?table_prefix=shop_locks_
      celery -A proj locks sql --upgrade | psql shop
    """
    if url and store:
        raise click.UsageError("give URL or --store, not both")
    address = url or app_store(ctx.obj.app.conf, store or DEFAULT_STORE)
    if not isinstance(address, str):
        raise LockConfigError(f"the store is a {type(address).__name__}: give the address of a database")
    click.echo(schema_sql(address, upgrade=upgrade).rstrip())
