"""Connections to a database server, short transactions on them, and the handling of their errors."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import PoolProxiedConnection

from celery_locks._runtime.clock import monotonic
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.sql.call_timeouts import CallTimeouts, TimedCall
from celery_locks.stores.sql.clock import ClockSetBack, raise_clock
from celery_locks.stores.sql.dialects import Connection, Dialect
from celery_locks.stores.sql.pool import SteadyPool
from celery_locks.stores.sql.remedies import newer_tables, remedy_for
from celery_locks.stores.sql.schema import VERSION
from celery_locks.stores.sql.session import SET_BACK_CODE
from celery_locks.stores.sql.shared_call import SharedCall

T = TypeVar("T")

#: The longest that connecting and a transaction may take, in seconds, if the address gives no other.
CONNECT_TIMEOUT_SECONDS = REQUEST_TIMEOUT_SECONDS = 2.0
#: The shortest timeout of a transaction, in seconds, however short the lease.
SHORTEST_TIMEOUT_SECONDS = 0.25
#: Seconds that creating the tables may take.
SCHEMA_TIMEOUT_SECONDS = 30.0
#: Seconds that putting the store's clock forward may take. A request waits for it within its own timeout only.
RAISE_TIMEOUT_SECONDS = 30.0
#: How often a transaction that collides with others is tried, and the longest pause before the second try.
MOST_TRIES, FIRST_RETRY_PAUSE_SECONDS = 10, 0.005
#: Seconds without use after which a connection may be dead, because a firewall has dropped it.
DOUBTFUL_AFTER_SECONDS = 1.0

#: Connections of a parent process. Closing one would end the parent's session, so they are kept unused.
_inherited: list[object] = []


class StoreFull(StoreUnavailable):
    """The server's disk is full. Nothing was written."""


class _TimedOut(Exception):
    """A call got no answer in time."""


class Database:
    """A database server, used through a connection pool of each process.

    Args:
        url: The address, as SQLAlchemy takes it.
        name: The address without its password, for errors.
        dialect: The SQL of the database.
        connect_args: Arguments of the driver in addition to the URL.
        timeout: The longest that a transaction may take, in seconds.
        prepares: Whether sessions keep prepared statements; ``None``: yes, until a session lacks one of its own.
    """

    def __init__(
        self,
        url: sa.URL,
        name: str,
        dialect: Dialect,
        connect_args: Mapping[str, Any],
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        prepares: bool | None = False,
        **options: Any,
    ) -> None:
        self.name = name
        self.dialect = dialect
        self.timeout = timeout
        self._prepares = prepares
        self._make: Callable[[], sa.Engine] = lambda: make_engine(url, dict(connect_args), timeout, options)
        self._here: tuple[int, sa.Engine, CallTimeouts] | None = None
        #: The timeouts of the process that has checked the version of the tables.
        self._checked: CallTimeouts | None = None
        self._clock_raise = SharedCall(self._raise_clock, "celery-locks-sql-clock")
        self._secret = str(url.password or "")
        self._user, self._database = str(url.username or ""), str(url.database or "")

    def timeout_for(self, ttl: float | None) -> float:
        """Return the timeout of a transaction in seconds.

        A transaction about a lease must end well before the next renewal.

        Args:
            ttl: The lease's ttl, in seconds; ``None`` for a transaction about no lease.
        """
        return self.timeout if ttl is None else min(self.timeout, max(SHORTEST_TIMEOUT_SECONDS, ttl / 4))

    def transaction(
        self, work: Callable[[Connection], T], timeout: float | None = None, begin: Sequence[str] | None = None
    ) -> T:
        """Run a transaction. Repeat it if it collides with others."""
        seconds = timeout or self.timeout
        return self._patiently(self._within(work, self.dialect.begin(seconds) if begin is None else begin), seconds)

    def single(self, work: Callable[[Connection], T], timeout: float | None = None) -> T:
        """Run statements, each of which is a transaction of its own."""

        def alone(connection: Connection) -> T:
            if self.dialect.isolates(connection):
                return work(connection)
            return self._within(work, self.dialect.begin(seconds))(connection)

        seconds = timeout or self.timeout
        return self._patiently(alone, seconds)

    def connect(self) -> Any:
        """Return a connection of the driver, outside the pool.

        Raises:
            StoreUnavailable: The server can't be reached.
        """
        proxied = self._connection(self._engine())
        proxied.detach()
        return proxied.dbapi_connection

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        if self._here is not None and self._here[0] == os.getpid():
            self._here[1].dispose()

    def make_schema(self) -> None:
        """Create missing tables and functions, and upgrade tables of an older version."""

        def work(connection: Connection) -> None:
            connection.run("BEGIN")
            self.dialect.make(connection.run)
            connection.run("COMMIT")

        with self._explained():
            self._repeat(work, SCHEMA_TIMEOUT_SECONDS, {"disconnected", "unprepared"})

    # --- Inside ---

    def _engine(self) -> sa.Engine:
        return self._of_this_process()[1]

    def _of_this_process(self) -> tuple[int, sa.Engine, CallTimeouts]:
        here = self._here
        if here is None or here[0] != os.getpid():  # after a fork, the connections are the parent's
            _inherited.append(here)
            here = self._here = (os.getpid(), self._make(), CallTimeouts())
        return here

    def _within(self, work: Callable[[Connection], T], begin: Sequence[str]) -> Callable[[Connection], T]:
        """Return a function that runs the work within a transaction."""

        def whole(connection: Connection) -> T:
            for statement in begin:
                connection.run(statement)
            result = work(connection)
            connection.run(self.dialect.commit)
            return result

        return whole

    def _patiently(self, work: Callable[[Connection], T], timeout: float) -> T:
        self._check_version()
        with self._explained():
            return self._repeat(work, timeout, {"disconnected", "schema", "set back", "unprepared"})

    def _repeat(self, work: Callable[[Connection], T], timeout: float, again: set[str]) -> T:
        """Run some work. Repeat it after a collision, and once for each other kind of error in ``again``."""
        collisions, repeated, give_up = 0, False, monotonic() + timeout
        while True:
            try:
                return self._try_once(work, give_up - monotonic(), repeated)
            except Exception as error:  # noqa: PERF203 - a transaction costs more
                kind = self._kind(error)
                if kind == "collision" and collisions < MOST_TRIES:
                    time.sleep(random.uniform(0, FIRST_RETRY_PAUSE_SECONDS * 2**collisions))
                    collisions += 1
                elif kind in again:
                    again.discard(kind)
                    repeated = repeated or kind in ("disconnected", "unprepared")
                    if kind == "unprepared":
                        self._prepares = False
                    if kind == "schema":
                        self.make_schema()
                        give_up = monotonic() + timeout
                    elif kind == "set back" and not self._clock_raise.wait(give_up - monotonic()):
                        raise _TimedOut(False, timeout) from error
                else:
                    raise
                if monotonic() >= give_up:
                    raise

    def _raise_clock(self) -> None:
        """Put the store's clock forward after the server's clock was set back.

        With many locks this takes longer than a request may. So it runs in a thread of its own.
        """
        self._repeat(
            self._within(raise_clock, self.dialect.begin(RAISE_TIMEOUT_SECONDS)),
            RAISE_TIMEOUT_SECONDS,
            {"disconnected", "unprepared"},
        )

    def _check_version(self) -> None:
        """Check once in each process that this release may use the tables. Upgrade older tables.

        Raises:
            StoreUnavailable: The tables belong to a newer release.
        """
        timeouts = self._of_this_process()[2]
        if self._checked is timeouts:
            return
        query = self.dialect.text("SELECT version, oldest FROM celery_locks_meta")
        with self._explained():
            try:
                row = self._repeat(lambda db: db.run(query).fetchone(), self.timeout, {"disconnected", "unprepared"})
                version, oldest = row or (0, 0)
            except Exception as error:
                if self._kind(error) != "schema":
                    raise
                version, oldest = 0, 0
        if oldest > VERSION:
            raise StoreUnavailable(f"the lock store {self.name} failed: {newer_tables(version)}")
        if version < VERSION:
            self.make_schema()
        self._checked = timeouts

    def _try_once(self, work: Callable[[Connection], T], timeout: float, repeated: bool) -> T:
        _, engine, timeouts = self._of_this_process()
        proxied = self._connection(engine)
        # A dead connection only shows by its silence. The rest of the time is left for a new one.
        info, now = proxied.info, monotonic()
        doubtful = not repeated and info.get("used", now) < now - DOUBTFUL_AFTER_SECONDS
        call = TimedCall(proxied.dbapi_connection, timeout / 2 if doubtful else timeout)
        try:
            timeouts.add(call)
            connection = Connection(proxied.dbapi_connection, self.dialect, info, timeout, repeated)
            if self._prepares is False and self.dialect.unprepared:
                connection.dbapi.prepare_threshold = None
            if "used" not in info:
                self.dialect.prepare(connection, self.timeout)
            result = work(connection)
        except BaseException as error:
            timeouts.remove(call)
            self._undo(proxied, error, call)
            if call.timed_out and isinstance(error, Exception):
                raise _TimedOut(doubtful, timeout) from error
            raise
        timeouts.remove(call)
        if call.timed_out:  # the answer came at the last moment; the connection is closed
            proxied.invalidate()
        info["used"] = monotonic()
        proxied.close()
        return result

    def _connection(self, engine: sa.Engine) -> PoolProxiedConnection:
        """Return a connection of the pool. Connecting is not tried twice, since that would take twice as long."""
        try:
            return engine.raw_connection()
        except (sa.exc.SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
            raise self._unavailable(getattr(error, "orig", None) or error) from error

    def _undo(self, proxied: PoolProxiedConnection, error: BaseException, call: TimedCall) -> None:
        """Undo a failed transaction. Close the connection if an answer may still arrive on it."""
        kind = self._kind(error) if isinstance(error, Exception) else "foreign"
        with suppress(Exception):
            if kind in ("collision", "schema", "set back", "other") and not call.timed_out:
                timeouts, undoing = self._of_this_process()[2], TimedCall(proxied.dbapi_connection, self.timeout)
                timeouts.add(undoing)
                proxied.rollback()
                timeouts.remove(undoing)
                if not undoing.timed_out:
                    proxied.close()
                    return
        with suppress(Exception):
            proxied.invalidate()
        if kind == "disconnected" or call.timed_out:  # idle connections may have ended, too
            self._engine().dispose()

    def _kind(self, error: Exception) -> str:
        """Return the kind of an error, which decides what is done about it.

        ``unprepared``: a pooler of transactions has given the transaction a session without its prepared statements.
        Usually the server answers so before it runs the statement. But psycopg may also deallocate a statement after
        another one has run. So a request that is repeated for this counts as repeated.
        """
        if isinstance(error, ClockSetBack):
            return "set back"
        if isinstance(error, _TimedOut):
            return "disconnected" if error.args[0] else "foreign"
        engine = self._engine()
        if not isinstance(error, engine.dialect.loaded_dbapi.Error):
            return "foreign"
        code = self.dialect.code(error)
        if code in self.dialect.collisions:
            return "collision"
        if code in self.dialect.missing:
            return "schema"
        if code == SET_BACK_CODE:
            return "set back"
        if code in self.dialect.unprepared and self._prepares is not True:
            return "unprepared"
        if code in self.dialect.read_only or self.dialect.is_disconnect(error, code):
            return "disconnected"
        return "other"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _TimedOut as error:
            seconds = error.args[1]
            raise StoreUnavailable(f"the lock store {self.name} did not answer within {seconds:g} s") from error
        except ClockSetBack as error:
            raise StoreUnavailable(f"the lock store {self.name} failed: its clock goes back again and again") from error
        except self._engine().dialect.loaded_dbapi.Error as error:
            raise self._unavailable(error) from error

    def _account(self) -> str:
        """Return the account that rights are granted to; empty if the server does not answer."""
        with suppress(Exception):
            return str(self._try_once(lambda db: db.run(self.dialect.account).fetchone()[0], self.timeout, False))
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
        kind = StoreFull if code in self.dialect.full else StoreUnavailable
        return kind(f"the lock store {self.name} failed: {type(error).__name__}: {said}{remedy and '; '}{remedy}")


def make_engine(
    url: sa.URL,
    connect_args: dict[str, Any],
    timeout: float,
    options: dict[str, Any],
) -> sa.Engine:
    """Return a connection pool. It connects at its first use."""
    return sa.create_engine(
        url,
        connect_args=connect_args,
        poolclass=SteadyPool,
        pool_timeout=timeout,
        pool_reset_on_return=None,  # no transaction outlives its call
        hide_parameters=True,  # they contain owner tokens
        **options,
    )
