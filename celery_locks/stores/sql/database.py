"""Connections to a database server, short transactions on them, and what their errors mean for a lock."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import PoolProxiedConnection

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.sql.dialects import Dialect
from celery_locks.stores.sql.guard import Guard
from celery_locks.stores.sql.remedies import remedy_for

T = TypeVar("T")

#: The longest a transaction or connecting may take, in seconds.
TIMEOUT = 2.0
#: The shortest time that a transaction is given, however short the lease.
SHORTEST_TIMEOUT = 0.25
#: Seconds that making the tables may take.
SCHEMA_TIMEOUT = 30.0
#: How often a transaction is tried that collides with others, and the longest pause before the second try.
TRIES, FIRST_PAUSE = 10, 0.005
#: Connections that are kept, and how many more there may be at once.
KEPT, MORE = 10, 10

#: Connections of a parent process. Closing one would say goodbye in the parent's name, so they are kept, unused.
_inherited: list[object] = []


class Answer:
    """The rows of a statement."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor = cursor
        self._decode = dialect.decode

    @property
    def rowcount(self) -> int:
        return int(self._cursor.rowcount)

    def fetchone(self) -> Any:
        row = self._cursor.fetchone()
        return None if row is None else tuple(map(self._decode, row))

    def fetchall(self) -> list[Any]:
        return [tuple(map(self._decode, row)) for row in self._cursor.fetchall()]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


class Connection:
    """A connection within a transaction, or one for a single statement."""

    def __init__(self, dbapi: Any, dialect: Dialect) -> None:
        self.dbapi = dbapi
        self.dialect = dialect

    def execute(self, query: str, values: Sequence[Any] = ()) -> Answer:
        """Runs a statement as `Session.execute` takes them."""
        return self.run(self.dialect.text(query), values)

    def run(self, statement: str, values: Sequence[Any] = ()) -> Answer:
        """Runs a statement in the driver's form."""
        cursor = self.dbapi.cursor()
        if values:
            cursor.execute(statement, tuple(map(self.dialect.encode, values)))
        else:
            cursor.execute(statement)
        return Answer(cursor, self.dialect)


class Database:
    """A server, reached through a pool of connections that each process has for itself.

    Args:
        url: SQLAlchemy's.
        name: The address without its password, for errors.
        dialect: The database's words.
        connect_args: What its driver is told beside the URL.
        prepare: Run on each new connection.
    """

    def __init__(
        self,
        url: sa.URL,
        name: str,
        dialect: Dialect,
        connect_args: Mapping[str, Any],
        prepare: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.dialect = dialect
        self._make: Callable[[], sa.Engine] = lambda: make_engine(url, dict(connect_args), prepare, options)
        self._here: tuple[int, sa.Engine, Guard] | None = None
        self._secret = str(url.password or "")
        self._user, self._database = str(url.username or ""), str(url.database or "")

    def transaction(
        self, work: Callable[[Connection], T], timeout: float = TIMEOUT, begin: Sequence[str] | None = None
    ) -> T:
        """Runs a transaction; where it collides with others, again."""
        begin = self.dialect.begin(timeout) if begin is None else begin

        def whole(connection: Connection) -> T:
            for statement in begin:
                connection.run(statement)
            result = work(connection)
            connection.run(self.dialect.commit)
            return result

        return self._patiently(whole, timeout)

    def single(self, work: Callable[[Connection], T], timeout: float = TIMEOUT) -> T:
        """Runs statements that are each a transaction of their own."""
        return self._patiently(work, timeout)

    def connect(self) -> Any:
        """A connection of the driver that belongs to no pool.

        Raises:
            StoreUnavailable: There is none to be had.
        """
        proxied = self._connection(self._engine())
        proxied.detach()
        return proxied.dbapi_connection

    def close(self) -> None:
        """Gives back the connections; the next use opens others."""
        if self._here is not None and self._here[0] == os.getpid():
            self._here[1].dispose()

    def make_schema(self) -> None:
        """Makes tables and functions where they are missing."""

        def work(connection: Connection) -> None:
            connection.run("BEGIN")
            self.dialect.make(connection.run)
            connection.run("COMMIT")

        self._patiently(work, SCHEMA_TIMEOUT)

    # --- Inside ---

    def _engine(self) -> sa.Engine:
        return self._of_this_process()[1]

    def _of_this_process(self) -> tuple[int, sa.Engine, Guard]:
        here = self._here
        if here is None or here[0] != os.getpid():  # what a fork doubled is the parent's
            _inherited.append(here)
            here = self._here = (os.getpid(), self._make(), Guard())
        return here

    def _patiently(self, work: Callable[[Connection], T], timeout: float) -> T:
        collisions, again = 0, {"disconnected", "schema"}
        with self._explained():
            while True:
                try:
                    return self._once(work, timeout)
                except Exception as error:  # noqa: PERF203 - a transaction costs more
                    kind = self._kind(error)
                    if kind == "collision" and collisions < TRIES:
                        time.sleep(random.uniform(0, FIRST_PAUSE * 2**collisions))
                        collisions += 1
                        continue
                    if kind not in again:
                        raise
                    again.discard(kind)
                    if kind == "schema":
                        self.make_schema()

    def _once(self, work: Callable[[Connection], T], timeout: float) -> T:
        _, engine, guard = self._of_this_process()
        proxied = self._connection(engine)
        try:
            with guard.within(_file_number(proxied.dbapi_connection), timeout) as call:
                result = work(Connection(proxied.dbapi_connection, self.dialect))
        except BaseException as error:
            self._undo(proxied, guard, error)
            if call.cut:
                raise StoreUnavailable(f"the lock store {self.name} did not answer within {timeout:g} s") from error
            raise
        if call.cut:  # at the last moment: the result is there, the connection is not
            proxied.invalidate()
        proxied.close()
        return result

    def _connection(self, engine: sa.Engine) -> PoolProxiedConnection:
        """A connection of the pool. One that can't be made is not tried twice: that would take twice as long."""
        try:
            return engine.raw_connection()
        except (sa.exc.SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
            raise self._unavailable(getattr(error, "orig", None) or error) from error

    def _undo(self, proxied: PoolProxiedConnection, guard: Guard, error: BaseException) -> None:
        """Leaves nothing of a transaction that failed. A connection that may hold an answer still to come is closed."""
        kind = self._kind(error) if isinstance(error, Exception) else "foreign"
        with suppress(Exception):
            if kind in ("collision", "schema", "other"):
                with guard.within(_file_number(proxied.dbapi_connection), TIMEOUT) as call:
                    proxied.rollback()
                if not call.cut:
                    proxied.close()
                    return
        with suppress(Exception):
            proxied.invalidate()
        if kind == "disconnected":  # the others in the pool have ended with the server, too
            self._engine().dispose()

    def _kind(self, error: Exception) -> str:
        """What to do about an error: ``collision``, ``schema``, ``disconnected``, or ``other``."""
        engine = self._engine()
        if not isinstance(error, engine.dialect.loaded_dbapi.Error):
            return "foreign"
        code = self.dialect.code(error)
        if code in self.dialect.collisions:
            return "collision"
        if code in self.dialect.missing:
            return "schema"
        if code in self.dialect.read_only or self.dialect.is_disconnect(error, code):
            return "disconnected"
        return "other"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._engine().dialect.loaded_dbapi.Error as error:
            raise self._unavailable(error) from error

    def _account(self) -> str:
        """The account that rights are granted to; empty if the server does not answer."""
        with suppress(Exception):
            return str(self._once(lambda db: db.run(self.dialect.account).fetchone()[0], TIMEOUT))
        return ""

    def _unavailable(self, error: BaseException) -> StoreUnavailable:
        said = " ".join(str(error).split())
        if self._secret:
            said = said.replace(self._secret, "***")
        code = self.dialect.code(error)
        account = self._account() if code in self.dialect.of_account else ""
        remedy = remedy_for(
            error,
            code,
            self.dialect.remedies,
            code in self.dialect.forbidden,
            lambda text: self.dialect.grant(text, self._user, account, self._database),
        )
        return StoreUnavailable(
            f"the lock store {self.name} failed: {type(error).__name__}: {said}{remedy and '; '}{remedy}"
        )


def make_engine(
    url: sa.URL, connect_args: dict[str, Any], prepare: Callable[[Any], None] | None, options: dict[str, Any]
) -> sa.Engine:
    """A pool of connections, none of which is made yet."""
    engine = sa.create_engine(
        url,
        connect_args=connect_args,
        pool_size=KEPT,
        max_overflow=MORE,
        pool_timeout=TIMEOUT,
        pool_use_lifo=True,
        pool_reset_on_return=None,  # no transaction outlives its call
        hide_parameters=True,  # owner tokens are among them
        **options,
    )
    if prepare is not None:
        sa.event.listen(engine, "connect", lambda dbapi, _: prepare(dbapi))
    return engine


def _file_number(dbapi: Any) -> int:
    """The socket's, of a connection of psycopg or PyMySQL."""
    if hasattr(dbapi, "fileno"):
        return int(dbapi.fileno())
    if dbapi._sock is None:
        raise dbapi.InterfaceError(0, "the connection is closed")
    return int(dbapi._sock.fileno())
