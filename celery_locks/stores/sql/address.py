"""The addresses of database servers: ``postgresql://`` and ``mysql://``."""

from __future__ import annotations

import re
from math import ceil, inf, nan
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from celery_locks._addresses import ENCODE, UnreadableError, login_of, mask
from celery_locks.errors import LockConfigError
from celery_locks.stores.sql.database import CONNECT_TIMEOUT_SECONDS, REQUEST_TIMEOUT_SECONDS, Database
from celery_locks.stores.sql.dialects import MYSQL_IDLE_SECONDS, PREFIX, PREPARE_AFTER, Dialect, MySQL, PostgreSQL

#: The most characters of a table prefix. PostgreSQL cuts off long names, and two tables must not become one.
LONGEST_PREFIX = 30
_PREFIX = re.compile(rf"[a-z_][a-z0-9_]{{0,{LONGEST_PREFIX - 1}}}\Z")

_DIALECTS: dict[str, type[Dialect]] = {
    "postgresql": PostgreSQL,
    "postgres": PostgreSQL,
    "mysql": MySQL,
    "mariadb": MySQL,
}


class Address:
    """The parsed address of a database server.

    Args:
        text: ``postgresql://user:password@host/database?table_prefix=…&listen=host:port&prepare=yes`` with
            ``connect_timeout=`` and ``request_timeout=`` in seconds. All other parameters are passed to the driver.

    Raises:
        LockConfigError: The address is invalid.
    """

    def __init__(self, text: str) -> None:
        self.name = mask(text)
        try:
            url = sa.make_url(text)
        except (sa.exc.ArgumentError, ValueError):  # its text may quote the password
            url = None
        login = login_of(text)
        # SQLAlchemy ends the user at a "/" and the password at the first "@". It also finds both in parameters.
        if url is None or _login_in(url) != unquote(login.user + login.password):
            raise UnreadableError(ENCODE)
        if not url.database:
            raise LockConfigError(f"{self.name} names no database: write {url.drivername}://host/database")
        query = dict(url.query)
        prefix, listen = str(query.pop("table_prefix", PREFIX)), query.pop("listen", "")
        prepare = str(query.pop("prepare", "auto"))
        if prepare not in ("auto", "yes", "no"):
            raise LockConfigError(f"{self.name} has prepare={prepare}: write yes, no or auto")
        #: Whether sessions keep prepared statements. ``None``: yes, until a transaction pooler is found.
        self.prepares = None if prepare == "auto" else prepare == "yes"
        #: The longest that connecting and a transaction may take, in seconds.
        self.connect_timeout = self._seconds(
            "connect_timeout", query.pop("connect_timeout", ""), CONNECT_TIMEOUT_SECONDS
        )
        self.request_timeout = self._seconds(
            "request_timeout", query.pop("request_timeout", ""), REQUEST_TIMEOUT_SECONDS
        )
        if not _PREFIX.match(prefix):
            raise LockConfigError(
                f"{self.name} has table_prefix={prefix}; write up to {LONGEST_PREFIX} lowercase letters, digits and _"
            )
        self.dialect = _DIALECTS[url.get_backend_name()](prefix)
        self.url = url.set(drivername=self.dialect.driver, query=query)
        #: The address to listen at for notices; ``None`` if this store does not listen.
        self.listen: sa.URL | None = self.url
        if listen == "no" or not isinstance(self.dialect, PostgreSQL):
            self.listen = None
        elif listen:
            place = urlsplit(f"//{listen}")
            self.listen = self.url.set(host=place.hostname, port=place.port)

    def database(self) -> Database:
        """Return the server at this address. It connects at its first use."""
        if isinstance(self.dialect, PostgreSQL):
            return self._postgresql(self.url, self.name, {}, self.prepares)
        arguments: dict[str, Any] = {
            "autocommit": True,
            "charset": "utf8mb4",
            "connect_timeout": ceil(self.connect_timeout),
            "read_timeout": ceil(4 * self.request_timeout),
            "write_timeout": ceil(4 * self.request_timeout),
        }
        options: dict[str, Any] = {"timeout": self.request_timeout, "pool_recycle": MYSQL_IDLE_SECONDS // 2}
        return Database(self.url, self.name, self.dialect, self._without_given(arguments), **options)

    def listener(self) -> Database | None:
        """Return the server to listen at, ``None`` if this store does not listen."""
        if self.listen is None:
            return None
        name = mask(self.listen.render_as_string(hide_password=True))
        alive = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
        return self._postgresql(self.listen, name, alive, prepares=False)

    def _postgresql(self, url: sa.URL, name: str, more: dict[str, Any], prepares: bool | None) -> Database:
        arguments = {
            "autocommit": True,
            "connect_timeout": ceil(self.connect_timeout),
            "application_name": "celery-locks",
            "client_encoding": "utf8",  # a database without an encoding would return bytes
            "prepare_threshold": None if prepares is False else PREPARE_AFTER,
            **more,
        }
        options: dict[str, Any] = {"timeout": self.request_timeout, "prepares": prepares, "use_native_hstore": False}
        return Database(url, name, self.dialect, self._without_given(arguments), **options)

    def _without_given(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that the URL does not set itself."""
        return {name: value for name, value in arguments.items() if name not in self.url.query}

    def _seconds(self, name: str, text: object, otherwise: float) -> float:
        """Return a timeout of the address.

        Raises:
            LockConfigError: It is not a number of seconds above 0.
        """
        if text == "":
            return otherwise
        try:
            seconds = float(str(text))
        except ValueError:
            seconds = nan
        if not 0 < seconds < inf:
            raise LockConfigError(f"{self.name} has {name}={text}: give seconds above 0, such as {name}=2")
        return seconds


def _login_in(url: sa.URL) -> str:
    return (url.username or "") + (f":{url.password}" if url.password is not None else "")


def schema_of(url: str, upgrade: bool = False) -> str:
    """Return the statements of `celery_locks.stores.schema_sql`."""
    dialect = Address(url).dialect
    return "".join(f"{statement};\n" for statement in (dialect.upgrade() if upgrade else dialect.schema()))
