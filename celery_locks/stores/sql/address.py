"""``postgresql://`` and ``mysql://``: the stores in database servers, by their addresses."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from celery_locks.errors import LockConfigError
from celery_locks.stores.addresses import ENCODE, UnreadableError, login_of, mask
from celery_locks.stores.sql.database import TIMEOUT, Database
from celery_locks.stores.sql.dialects import PREFIX, Dialect, MySQL, PostgreSQL

#: The most characters of a table prefix: what PostgreSQL cuts off must not be what tells two names apart.
LONGEST_PREFIX = 30
_PREFIX = re.compile(rf"[a-z_][a-z0-9_]{{0,{LONGEST_PREFIX - 1}}}\Z")

_DIALECTS: dict[str, type[Dialect]] = {
    "postgresql": PostgreSQL,
    "postgres": PostgreSQL,
    "mysql": MySQL,
    "mariadb": MySQL,
}


class Address:
    """A URL, read.

    Args:
        text: ``postgresql://user:password@host/database?table_prefix=…&listen=host:port&prepare=yes``; what else is in
            its query is told to the driver.

    Raises:
        LockConfigError: It can't be read.
    """

    def __init__(self, text: str) -> None:
        self.name = mask(text)
        try:
            url = sa.make_url(text)
        except (sa.exc.ArgumentError, ValueError):  # it may quote a password
            url = None
        login = login_of(text)
        # SQLAlchemy ends a user at a "/", a password at the first "@", and finds both in parameters, too.
        if url is None or _login_in(url) != unquote(login.user + login.password):
            raise UnreadableError(ENCODE)
        if not url.database:
            raise LockConfigError(f"{self.name} names no database: write {url.drivername}://host/database")
        query = dict(url.query)
        prefix, listen = str(query.pop("table_prefix", PREFIX)), query.pop("listen", "")
        #: Whether sessions may keep prepared statements. A pooler gives each transaction another session.
        self.prepares = query.pop("prepare", "no") == "yes"
        if not _PREFIX.match(prefix):
            raise LockConfigError(
                f"{self.name} has table_prefix={prefix}; write up to {LONGEST_PREFIX} lowercase letters, digits and _"
            )
        self.dialect = _DIALECTS[url.get_backend_name()](prefix)
        self.url = url.set(drivername=self.dialect.driver, query=query)
        #: Where to listen; ``None`` where nobody should.
        self.listen: sa.URL | None = self.url
        if listen == "no" or not isinstance(self.dialect, PostgreSQL):
            self.listen = None
        elif listen:
            place = urlsplit(f"//{listen}")
            self.listen = self.url.set(host=place.hostname, port=place.port)

    def database(self) -> Database:
        """The server there; nothing is connected yet."""
        if isinstance(self.dialect, PostgreSQL):
            arguments = {**self._without_given(_POSTGRESQL), "prepare_threshold": 2 if self.prepares else None}
            return Database(self.url, self.name, self.dialect, arguments, use_native_hstore=False)
        arguments, recycle = self._without_given(_MYSQL), _MYSQL_IDLE // 2
        return Database(self.url, self.name, self.dialect, arguments, _prepare_mysql, pool_recycle=recycle)

    def listener(self) -> Database | None:
        """The server to listen at."""
        if self.listen is None:
            return None
        name = mask(self.listen.render_as_string(hide_password=True))
        alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
        arguments = {**self._without_given(_POSTGRESQL), **alive}
        return Database(self.listen, name, self.dialect, arguments, use_native_hstore=False)

    def _without_given(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the URL says itself goes before."""
        return {name: value for name, value in arguments.items() if name not in self.url.query}


_POSTGRESQL = {
    "autocommit": True,
    "connect_timeout": int(TIMEOUT),
    "application_name": "celery-locks",
    "client_encoding": "utf8",  # else a database without an encoding gives bytes
}


#: Seconds after which MySQL ends a session that does nothing: also one whose client stopped within a transaction.
_MYSQL_IDLE = 60
_MYSQL = {
    "autocommit": True,
    "charset": "utf8mb4",
    "connect_timeout": int(TIMEOUT),
    "read_timeout": int(4 * TIMEOUT),
    "write_timeout": int(4 * TIMEOUT),
}


def _login_in(url: sa.URL) -> str:
    return (url.username or "") + (f":{url.password}" if url.password is not None else "")


def _prepare_mysql(connection: Any) -> None:
    settings = [
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES'",  # cutting off a name would make one of two locks
        f"SET SESSION wait_timeout = {_MYSQL_IDLE}",
        f"SET SESSION innodb_lock_wait_timeout = {int(TIMEOUT)}",
    ]
    if "MariaDB" in connection.get_server_info():
        settings.append(f"SET SESSION idle_transaction_timeout = {int(2 * TIMEOUT)}")
    with connection.cursor() as cursor:
        for setting in settings:
            cursor.execute(setting)


def schema_of(url: str) -> str:
    """See `celery_locks.stores.schema_sql`."""
    return "".join(f"{statement};\n" for statement in Address(url).dialect.schema())
