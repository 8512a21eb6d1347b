"""Checks of a database server's settings that leases depend on."""

from __future__ import annotations

from collections.abc import Callable

from celery_locks._runtime.clock import wall_time
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.check_results import NOT_KNOWN
from celery_locks.stores.sql.database import Database
from celery_locks.stores.sql.dialects import Connection, PostgreSQL
from celery_locks.stores.sql.schema import SERVER_TABLES

#: Seconds by which the clocks of server and client may differ. Leases tolerate any difference, but countdowns and
#: expiries of messages don't.
MOST_CLOCK_DIFFERENCE_SECONDS = 5.0
#: A table is bloated if it has more dead rows than this, and more for each live row than this.
MOST_DEAD, DEAD_FOR_EACH = 100_000, 20

_AUTOVACUUM = """
SELECT current_setting('autovacuum'), coalesce(string_agg(c.relname, ', ')
  FILTER (WHERE array_to_string(c.reloptions, ',') ~ 'autovacuum_enabled=(false|off|0|no)'), ''),
  coalesce(string_agg(c.relname, ', ')
    FILTER (WHERE s.n_dead_tup > {most} AND s.n_dead_tup > {each} * s.n_live_tup), '')
FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE c.oid = ANY (ARRAY[{tables}])
"""


def checks(database: Database) -> dict[str, str]:
    """Return the results of all checks, as `Store.checks` does."""
    made = {"isolation": _isolation, "clock": _clock}
    if isinstance(database.dialect, PostgreSQL):
        made["autovacuum"] = _autovacuum
    return {name: _result(check, database) for name, check in made.items()}


def _result(check: Callable[[Connection], str], database: Database) -> str:
    try:
        return database.transaction(check)
    except StoreUnavailable as error:
        return f"{NOT_KNOWN}{error}"


def _isolation(connection: Connection) -> str:
    if isinstance(connection.dialect, PostgreSQL):
        level = connection.run("SELECT current_setting('transaction_isolation')").fetchone()[0]
    else:
        # MySQL has no `tx_isolation`, and MariaDB before 11.1 no `transaction_isolation`.
        query = "SHOW SESSION VARIABLES WHERE variable_name IN ('tx_isolation', 'transaction_isolation')"
        level = connection.run(query).fetchone()[1]
    if str(level).lower().replace("-", " ") == "read committed":
        return ""
    return (
        f"transactions run at the isolation level {level}, though READ COMMITTED was asked for, so requests for a busy "
        "key fail. Have whatever stands between, such as a pooler, leave the level as it is"
    )


def _clock(connection: Connection) -> str:
    before = wall_time()
    there = connection.run(f"SELECT {connection.dialect.server_time}").fetchone()[0] / 1e6
    after = wall_time()
    apart = there - after if there > after else min(0.0, there - before)
    if abs(apart) <= MOST_CLOCK_DIFFERENCE_SECONDS:
        return ""
    side = "ahead of" if apart > 0 else "behind"
    return (
        f"the lock store's clock is {abs(apart):.0f} s {side} this machine's: leases don't mind, but countdowns, "
        "expires and eta of messages do. Set both by NTP"
    )


def _autovacuum(connection: Connection) -> str:
    tables = ", ".join(f"to_regclass('{connection.dialect.prefix}{table.name}')" for table in SERVER_TABLES)
    query = _AUTOVACUUM.format(most=MOST_DEAD, each=DEAD_FOR_EACH, tables=tables)
    setting, without, bloated = connection.run(query).fetchone()
    if setting != "on":
        return "autovacuum is off, so dead rows of the locks' tables pile up and requests get slower. Set autovacuum on"
    if without:
        return (
            f"autovacuum is off for {without}, so dead rows pile up there and requests get slower. Reset the tables' "
            "autovacuum_enabled"
        )
    if bloated:
        return (
            f"{bloated} has many more dead rows than living ones: autovacuum does not keep up, or an old transaction "
            "holds it back. Look for one in pg_stat_activity, and lower autovacuum_naptime"
        )
    return ""
