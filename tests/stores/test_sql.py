"""What is special to the stores in database servers: processes, first use, lost replies, poolers, waking, sweeping."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.stores import open_store, schema_sql
from celery_locks.stores.parking import Parked, Ticket
from celery_locks.stores.sql import sweeper
from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.dialects import Connection
from celery_locks.stores.sql.locked_session import LockedSession
from celery_locks.stores.sql.postgresql import PostgreSQLStore
from celery_locks.stores.sql.store import ServerStore
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from tests.stores.test_exclusion import exclude_each_other
from tests.support.celery_worker import ROOT
from tests.support.pooler import Pooler
from tests.support.sql_servers import PASSWORD, DatabaseServer, MariaDBServer, PostgresServer
from tests.support.waiting import eventually

SOON = 60.0


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    """Each server, shared with other tests."""
    server: DatabaseServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def prefix() -> str:
    """Tables of this test's own."""
    return f"t{uuid.uuid4().hex[:8]}_"


@pytest.fixture
def url(server: DatabaseServer, prefix: str) -> str:
    return server.url(query=f"table_prefix={prefix}")


@pytest.fixture
def postgresql(postgresql_server: PostgresServer, prefix: str) -> str:
    return postgresql_server.url(query=f"table_prefix={prefix}")


@pytest.fixture
def open_(request: pytest.FixtureRequest) -> Callable[[str], ServerStore]:
    """Opens stores that are closed at the end."""

    def open_(url: str) -> ServerStore:
        store = open_store(url)
        assert isinstance(store, ServerStore)
        request.addfinalizer(store.close)
        return store

    return open_


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``sql_process.py``."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("sql_process.py")), *map(str, arguments)],
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=SOON)


def ends_well(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate("go\n", timeout=110)
    assert process.returncode == 0, errors


def claim(name: str = "lock", ttl: float = 60.0, **more: Any) -> Claim:
    return Claim(name, uuid.uuid4().hex, "tester", ttl, **more)


def granted(store: ServerStore, wanted: Claim) -> int:
    answer = store.acquire(wanted)
    assert isinstance(answer, Granted), answer
    return answer.fencing_token


def ask(store: ServerStore, query: str, *values: Any) -> list[Any]:
    return store._database.single(lambda connection: connection.execute(query, values).fetchall())


def expire(store: ServerStore, name: str = "") -> None:
    """Has the leases of a lock expire, or all leases."""
    for table in ("holder", "lock"):
        tell(store, f"UPDATE celery_locks_{table} SET deadline = 1 WHERE ? IN ('', name)", name)


def crowd(store: ServerStore, name: str = "lock") -> bool:
    """Whether holders of a lock are in their own table."""
    return ask(store, "SELECT crowd FROM celery_locks_lock WHERE name = ?", name) == [(1,)]


def tell(store: ServerStore, statement: str, *values: Any) -> int:
    return store._database.single(lambda connection: connection.execute(statement, values).rowcount)


class TestProcesses:
    @pytest.mark.slow
    def test_make_the_tables_concurrently(self, url: str, open_: Any, start: Callable[..., Any]) -> None:
        ends_well(start("crew", 8, "first_use", url))
        store = open_(url)
        assert ask(store, "SELECT count(*) FROM celery_locks_lock WHERE token <> ''") == [(8,)]
        assert ask(store, "SELECT count(*) FROM celery_locks_meta") == [(1,)]

    @pytest.mark.slow
    def test_killed_within_a_transaction(self, url: str, open_: Any, start: Callable[..., Any]) -> None:
        store = open_(url)
        store.ping()
        process = start("hold", url, "lock")
        assert process.stdout.readline() == "within\n"
        process.kill()
        eventually(lambda: granted(store, claim()), SOON)

    @pytest.mark.slow
    def test_stopped_within_a_transaction(self, url: str, open_: Any, start: Callable[..., Any]) -> None:
        """It is in nobody's way for long: the server ends its transaction."""
        store = open_(url)
        store.ping()
        process = start("hold", url, "lock")
        assert process.stdout.readline() == "within\n"
        granted(store, claim("another"))
        eventually(lambda: granted(store, claim()), SOON)
        assert process.poll() is None

    @pytest.mark.slow
    def test_fork(self, url: str, start: Callable[..., Any]) -> None:
        ends_well(start("fork", url))


def test_its_text_names_it(server: DatabaseServer, url: str, open_: Any) -> None:
    assert re.fullmatch(rf"{server.name} \d+\.\d+(\.\d+)?", open_(url).about())


class TestTrouble:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", [PostgresServer, MariaDBServer])
    def test_a_restart_in_the_middle_of_a_lease(self, kind: type[DatabaseServer], open_: Any) -> None:
        if why := kind.missing():
            pytest.skip(why)
        with kind() as server:
            store = open_(server.url())
            locks = Locks(store, prefix="restart")
            lease = locks.lock("key", ttl=60).acquire()
            waiter = claim(locks._space.name("key"))
            assert isinstance(store.acquire(waiter, 120.0), Refused)
            server.kill()
            with pytest.raises(StoreUnavailable) as caught:
                locks.lock("other").try_acquire()
            assert PASSWORD not in "".join(traceback.format_exception(caught.value))
            server.start()
            other = locks.lock("other").try_acquire()
            assert other is not None
            assert other.release()
            assert store.renew([Renewal(locks._space.name("key"), lease.token, 60.0)]) == [None]
            assert store.waiting(locks._space.name("key")) == 1
            assert lease.release()
            granted(store, waiter)

    @pytest.mark.slow
    def test_a_server_that_hangs(self, open_: Any) -> None:
        if why := PostgresServer.missing():
            pytest.skip(why)
        with PostgresServer() as server:
            store, mine = open_(server.url()), claim(ttl=2.0)
            granted(store, mine)
            with server.paused():
                began = time.monotonic()
                with pytest.raises(StoreUnavailable, match="did not answer"):
                    store.renew([Renewal("lock", mine.token, 2.0)])
                assert time.monotonic() - began < SOON / 2
            eventually(lambda: granted(store, claim("afterwards")), SOON)

    def test_promise_23_a_lost_reply_of_an_acquire(self, url: str, open_: Any) -> None:
        store, mine = open_(url), claim()
        store.ping()
        with lost_replies(store) as lost:
            token = granted(store, mine)
        assert lost
        assert [holder.fencing_token for holder in store.holders("lock")] == [token]

    def test_promise_23_a_lost_reply_of_a_release(self, url: str, open_: Any) -> None:
        store = open_(url)
        for barge in (False, True):  # the short way, and the long one
            mine = claim()
            granted(store, mine)
            if barge:
                assert isinstance(store.acquire(claim(), 0.01), Refused)
            with lost_replies(store) as lost:
                assert store.release("lock", mine.token) is True
            assert lost
            assert store.release("lock", mine.token) is False

    def test_promise_23_a_lost_reply_of_a_reaper(self, url: str, open_: Any) -> None:
        """A dead run's lease is given back once, and that it was is not forgotten with the reply."""
        store, mine = open_(url), claim()
        granted(store, mine)
        with lost_replies(store) as lost:
            assert store.end_run("lock", mine.token, "again", broker="") == (True, ())
        assert lost
        assert store.end_run("lock", mine.token, "again", broker="") == (False, ())

    def test_no_waiter_acquires_after_its_deadline(self, postgresql: str, open_: Any) -> None:
        """Held up by another's transaction, the server gives up before its client does."""
        store, late = open_(postgresql), claim(ttl=2.0)
        granted(store, old := claim())
        assert store.release("lock", old.token)
        with psycopg.connect(postgresql.partition("?")[0]) as db:
            lock = store._database.dialect.text("celery_locks_lock")
            db.execute(f"SELECT 1 FROM {lock} WHERE name = 'lock' FOR UPDATE")  # type: ignore[arg-type]
            with pytest.raises(StoreUnavailable):
                store.acquire(late)
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            eventually(lambda: ask(store, waiting) == [(0,)], SOON)  # such a claim would be granted any time later
        granted(store, mine := claim())
        assert [holder.token for holder in store.holders("lock")] == [mine.token]

    def test_stale_connections_are_noticed(self, postgresql: str, open_: Any) -> None:
        store, other = open_(postgresql), open_(postgresql)
        store.ping()
        mine = claim()
        granted(store, mine)
        ask(
            other,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND application_name = 'celery-locks' AND state = 'idle'",
        )
        assert store.release("lock", mine.token)

    @pytest.mark.parametrize("password", ["wrong", PASSWORD])
    def test_promise_21_no_password_is_shown(self, server: DatabaseServer, password: str, open_: Any) -> None:
        port = server.port if password == "wrong" else 1
        store = open_(server.url(password=password, port=port))
        with pytest.raises(StoreUnavailable) as caught:
            store.ping()
        told = "".join(traceback.format_exception(caught.value))
        assert PASSWORD not in told
        assert "wrong" not in told

    def test_no_rights_to_make_the_tables(self, postgresql_server: PostgresServer, prefix: str, open_: Any) -> None:
        with psycopg.connect(postgresql_server.url(), autocommit=True) as db:
            db.execute("DROP ROLE IF EXISTS poor")
            db.execute("CREATE ROLE poor LOGIN PASSWORD 'poor'")
        url = postgresql_server.url(query=f"table_prefix={prefix}")
        poor = url.replace("//locks:", "//poor:").replace(quote(PASSWORD, safe=""), "poor")
        with pytest.raises(StoreUnavailable, match="schema_sql"):
            open_(poor).ping()
        with psycopg.connect(postgresql_server.url(), autocommit=True) as db:
            for statement in schema_sql(url).split(";\n"):
                if statement.strip():
                    db.execute(statement)  # type: ignore[arg-type]
            for (table,) in db.execute(f"SELECT tablename FROM pg_tables WHERE tablename LIKE '{prefix}%'").fetchall():
                db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO poor")
            store, mine, waiter = open_(poor), claim(), claim()
            pass_the_lock_on(store, mine, waiter)
            db.execute("DROP OWNED BY poor")


def pass_the_lock_on(store: ServerStore, mine: Claim, waiter: Claim) -> None:
    """Each of the ways to change a lock, from one holder to the next in line."""
    granted(store, mine)
    assert isinstance(store.acquire(waiter, 60.0), Refused)
    assert store.renew([Renewal("lock", mine.token, 60.0)]) == [None]
    assert store.write("lock", mine.token, "value", 60.0)
    assert store.release("lock", mine.token)
    granted(store, waiter)


@contextmanager
def lost_replies(store: ServerStore, meanwhile: Callable[[], object] = lambda: None) -> Iterator[list[str]]:
    """The next change is made, and the connection ends before its answer has come.

    Args:
        store: Where.
        meanwhile: Called before the request can be repeated.
    """
    lost: list[str] = []
    run = Connection.run
    functions = store._database.dialect.text(r"COMMIT|SELECT \* FROM celery_locks_(acquire|release|leave|renew)_")
    alone = store._database.dialect.text(
        r"\n(UPDATE celery_locks_lock SET touched = greatest|INSERT INTO celery_locks_lock\n)"
    )

    def breaking(self: Connection, statement: str, values: Any = ()) -> Any:
        answer = run(self, statement, values)
        if not lost and (re.match(functions, statement) or (re.match(alone, statement) and answer.rowcount)):
            lost.append(statement)
            self.dbapi.close()
            meanwhile()
            raise _gone(store)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "run", breaking)
        yield lost


def _gone(store: ServerStore) -> Exception:
    error: type[Exception] = store._database._engine().dialect.loaded_dbapi.OperationalError
    return error(2013, "Lost connection") if "mysql" in store._database.dialect.driver else error("connection lost")


@pytest.fixture
def pooler(postgresql_server: PostgresServer) -> Iterator[Pooler]:
    with Pooler(postgresql_server.url()) as pooler:
        yield pooler


class TestPoolers:
    @pytest.fixture
    def pooled(self, pooler: Pooler, postgresql_server: PostgresServer, prefix: str) -> str:
        return postgresql_server.url(port=pooler.port, query=f"table_prefix={prefix}")

    def test_each_transaction_has_another_session(self, pooled: str, open_: Any) -> None:
        store, mine, waiter = open_(pooled), claim(), claim()
        store.ping()
        assert len({ask(store, "SELECT pg_backend_pid()")[0] for _ in range(9)}) == 3
        for _ in range(5):
            pass_the_lock_on(store, mine, waiter)
            assert store.release("lock", waiter.token)
            assert store.value("lock") == "value"

    def test_nothing_is_left_in_a_session(self, pooled: str, open_: Any) -> None:
        store = open_(f"{pooled}&listen=no&prepare=no")
        for _ in range(12):
            mine = claim()
            granted(store, mine)
            assert isinstance(store.acquire(claim()), Refused)
            assert store.release("lock", mine.token)
        for _ in range(3):
            assert ask(store, "SELECT count(*) FROM pg_prepared_statements") == [(0,)]
            assert ask(store, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
            assert ask(store, "SELECT current_setting('statement_timeout')") == [("0",)]

    def test_prepared_statements_are_given_up(
        self, pooled: str, postgresql_server: Any, prefix: str, open_: Any
    ) -> None:
        store, direct = open_(pooled), open_(postgresql_server.url(query=f"table_prefix={prefix}"))
        tokens = []
        for number in range(30):
            one, other = claim(f"{number}"), claim(f"other {number}")
            tokens += [granted(store, one), granted(direct, other)]
            assert store.release(one.name, one.token)
            assert direct.release(other.name, other.token)
        assert store._database._prepares is False
        assert direct._database._prepares is None

    def test_prepared_statements_are_what_it_is_not_for(self, pooled: str, open_: Any) -> None:
        """That this pooler is one: what the how-to warns of goes wrong."""
        store = open_(f"{pooled}&prepare=yes")

        def work() -> None:
            for number in range(20):
                granted(store, claim(f"{number}"))

        with pytest.raises(StoreUnavailable, match="prepared statement"):
            work()

    @pytest.mark.slow
    def test_who_hears_nothing_looks_again(self, pooled: str, open_: Any, monkeypatch: Any, caplog: Any) -> None:
        """``LISTEN`` is answered, and no notice ever comes."""
        monkeypatch.setattr("celery_locks.stores.sql.listener.PROBE_TIMEOUT_SECONDS", 0.2)
        store, mine, waiter = open_(pooled), claim(), claim()
        granted(store, mine)
        assert isinstance(store.acquire(waiter, 60.0), Refused)
        eventually(lambda: store.wait("lock", waiter.token, 0.3) or "no notices come" in caplog.text, SOON)
        threading.Timer(0.3, store.release, ("lock", mine.token)).start()
        store.wait("lock", waiter.token, SOON)
        granted(store, waiter)

    @pytest.mark.slow
    def test_listening_past_it(self, pooled: str, postgresql_server: PostgresServer, open_: Any) -> None:
        store, mine, waiter = open_(f"{pooled}&listen=127.0.0.1:{postgresql_server.port}"), claim(), claim()
        granted(store, mine)
        assert isinstance(store.acquire(waiter, 120.0), Refused)
        listening(store, waiter)
        with counted() as statements:
            waits = threading.Thread(target=store.wait, args=("lock", waiter.token, 3 * SOON), daemon=True)
            waits.start()
            time.sleep(0.5)  # as long as somebody would have looked again
            assert len(statements) <= 10, statements
        assert store.release("lock", mine.token)
        waits.join(SOON)
        assert not waits.is_alive()

    @pytest.mark.slow
    def test_processes_exclude_each_other(self, pooled: str, tmp_path: Path) -> None:
        exclude_each_other(f"{pooled}&listen=no", tmp_path, seconds=1.0)

    def test_without_listening(self, postgresql: str, open_: Any) -> None:
        store, mine, waiter = open_(f"{postgresql}&listen=no"), claim(), claim()
        assert not store.wakes
        granted(store, mine)
        assert isinstance(store.acquire(waiter, 60.0), Refused)
        threading.Timer(0.2, store.release, ("lock", mine.token)).start()
        store.wait("lock", waiter.token, SOON)
        granted(store, waiter)


class TestWaking:
    def test_who_waits_asks_for_nothing(self, postgresql: str, open_: Any) -> None:
        """Whoever lines up where notices come sends nothing until its turn has come."""
        store, other, mine, waiter = open_(postgresql), open_(postgresql), claim(), claim()
        granted(store, mine)
        listening(other, waiter)
        assert isinstance(other.acquire(waiter, 60.0), Refused)
        with counted() as statements:
            waits = threading.Thread(target=other.wait, args=("lock", waiter.token, SOON), daemon=True)
            waits.start()
            time.sleep(1.0)  # as long as somebody would have looked again
            asked = len(statements)
            assert waits.is_alive()
            assert store.release("lock", mine.token)
            waits.join(SOON)
        assert asked == 0, statements
        assert len(statements) == 1, statements
        granted(other, waiter)

    def test_a_notice_before_the_wait_is_not_missed(self, postgresql: str, open_: Any) -> None:
        store, other, mine, waiter = open_(postgresql), open_(postgresql), claim(), claim()
        granted(store, mine)
        listening(other, waiter)
        assert isinstance(other.acquire(waiter, 60.0), Refused)
        assert store.release("lock", mine.token)
        eventually(lambda: other._subscriptions().kept(waiter.token).notified, SOON)
        with counted() as statements:
            other.wait("lock", waiter.token, 3 * SOON)
        assert statements == []
        granted(other, waiter)
        assert other._subscriptions().kept(waiter.token) is None

    def test_what_may_have_been_missed_is_looked_for(self, postgresql: str, open_: Any) -> None:
        """Notices stop for a moment, and the one that counts is not heard."""
        store, other, mine, waiter = open_(postgresql), open_(postgresql), claim(), claim()
        granted(store, mine)
        listening(other, waiter)
        assert isinstance(other.acquire(waiter, 60.0), Refused)
        other._subscriptions().set_hearing(hearing=True)
        assert store.release("lock", mine.token)
        place = other._subscriptions().kept(waiter.token)
        eventually(lambda: place.notified, SOON)
        place.notified = False
        other.wait("lock", waiter.token, 3 * SOON)
        granted(other, waiter)

    @pytest.mark.slow
    def test_a_waiter_is_woken_soon(self, postgresql: str, open_: Any) -> None:
        """Half of them within 50 ms on a busy machine; the how-to says what it is on a quiet one."""
        store, other = open_(postgresql), open_(postgresql)
        listening(other, claim())
        delays = []
        for _ in range(20):
            mine, waiter, woken = claim(), claim(), []
            granted(store, mine)
            assert isinstance(other.acquire(waiter, 60.0), Refused)

            def wait(waiter: Claim = waiter, woken: list[float] = woken) -> None:
                other.wait("lock", waiter.token, SOON)
                woken.append(time.monotonic())

            waits = threading.Thread(target=wait, daemon=True)
            waits.start()
            time.sleep(0.05)
            released = time.monotonic()
            store.release("lock", mine.token)
            waits.join(SOON)
            delays.append(woken[0] - released)
            granted(other, waiter)
            other.release("lock", waiter.token)
        assert sorted(delays)[10] < 0.25, sorted(delays)

    def test_who_is_not_in_line_is_woken_too(self, postgresql: str, open_: Any) -> None:
        store, other, mine = open_(postgresql), open_(postgresql), claim()
        granted(store, mine)
        listening(other, claim())
        waits = threading.Thread(target=other.wait, args=("lock", "nobody", 3 * SOON), daemon=True)
        waits.start()
        eventually(lambda: ask(store, "SELECT watched > 0 FROM celery_locks_lock") == [(True,)], SOON)
        assert store.release("lock", mine.token)
        waits.join(SOON)
        assert not waits.is_alive()

    def test_who_is_not_in_line_sees_a_holder_die(self, postgresql: str, open_: Any) -> None:
        store = open_(postgresql)
        granted(store, claim("warm"))
        listening(store, claim())
        granted(store, claim(ttl=0.5))
        waits = threading.Thread(target=store.wait, args=("lock", "nobody", 3 * SOON), daemon=True)
        waits.start()
        waits.join(SOON)
        assert not waits.is_alive()

    @pytest.mark.slow
    def test_a_broken_connection_is_made_again(self, postgresql: str, open_: Any) -> None:
        store, mine, waiter = open_(postgresql), claim(), claim()
        granted(store, mine)
        assert isinstance(store.acquire(waiter, 120.0), Refused)
        listening(store, waiter)
        waits = threading.Thread(target=store.wait, args=("lock", waiter.token, 3 * SOON), daemon=True)
        waits.start()
        ask(
            store,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE ?",
            f'LISTEN "{store._database.dialect.channel}"%',
        )
        eventually(lambda: not hears(store), SOON)
        eventually(lambda: hears(store), SOON)
        assert store.release("lock", mine.token)
        waits.join(SOON)
        assert not waits.is_alive()


def listening(store: ServerStore, waiter: Claim) -> None:
    """Until the store's process listens."""
    assert isinstance(store, PostgreSQLStore)
    eventually(lambda: store.wait("listening", waiter.token, 0.01) or hears(store), SOON)


def hears(store: ServerStore) -> bool:
    """Whether notices come to the store's process."""
    assert isinstance(store, PostgreSQLStore)
    subscriptions = store._subscriptions()
    return subscriptions is not None and subscriptions.hearing


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements that this process sends."""
    statements: list[str] = []
    run = Connection.run

    def noting(self: Connection, statement: str, values: Any = ()) -> Any:
        statements.append(statement)
        return run(self, statement, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "run", noting)
        yield statements


class TestCosts:
    """In statements, which don't depend on the machine; the how-to names them."""

    def test_of_a_pair(self, url: str, open_: Any) -> None:
        store, mine = open_(url), claim()
        store.ping()
        store._sweeper._next = time.monotonic() + SOON
        with counted() as statements:
            granted(store, mine)
            assert store.release("lock", mine.token)
        assert len(statements) == (2 if "postgresql" in url else 3), statements

    def test_of_a_hand_over(self, postgresql: str, open_: Any) -> None:
        """From the release to the next one's lease; each is a round trip, one after the other."""
        store, mine, waiter = open_(postgresql), claim(), claim()
        granted(store, mine)
        assert isinstance(store.acquire(waiter, 60.0), Refused)
        store._sweeper._next = time.monotonic() + SOON
        with counted() as statements:
            assert store.release("lock", mine.token)
            granted(store, waiter)
        assert len(statements) == 2, statements

    def test_of_waiting_and_of_renewing(self, postgresql: str, open_: Any) -> None:
        """A place that is confirmed, every three seconds; two hundred leases that are renewed, every ten."""
        store, waiter = open_(postgresql), claim()
        leases = [claim(f"{number}") for number in range(200)]
        for lease in (claim(), *leases):
            granted(store, lease)
        assert isinstance(store.acquire(waiter, 60.0), Refused)
        store._sweeper._next = time.monotonic() + SOON
        with counted() as statements:
            assert isinstance(store.acquire(waiter, 60.0), Refused)
            assert store.renew([Renewal(lease.name, lease.token, 60.0) for lease in leases]) == [None] * 200
        assert len(statements) == 2, statements


class TestRows:
    """Where a lock's holders are: the only one in the lock's row, others in their own table."""

    def test_a_crowd_ends(self, url: str, open_: Any) -> None:
        store, mine, waiter = open_(url), claim(), claim()
        granted(store, mine)
        assert not crowd(store)
        assert isinstance(store.acquire(waiter, 60.0), Refused)
        assert crowd(store)
        assert store.renew([Renewal("lock", mine.token, 60.0)]) == [None]
        assert store.release("lock", mine.token)
        granted(store, waiter)
        assert store.release("lock", waiter.token)
        assert not crowd(store)
        assert ask(store, "SELECT count(*) FROM celery_locks_holder") == [(0,)]

    def test_a_line_that_is_given_up(self, url: str, open_: Any) -> None:
        store, mine, waiter = open_(url), claim(), claim()
        granted(store, mine)
        assert isinstance(store.acquire(waiter, 60.0), Refused)
        assert store.release("lock", mine.token)
        assert crowd(store)
        store.leave("lock", waiter.token)
        assert not crowd(store)

    def test_a_semaphore_and_then_a_lock(self, url: str, open_: Any) -> None:
        store, claims = open_(url), [claim(limit=3) for _ in range(3)]
        tokens = [granted(store, each) for each in claims]
        assert tokens == sorted(set(tokens))
        assert isinstance(store.acquire(claim(limit=3)), Refused)
        assert isinstance(store.acquire(claim()), Refused)
        assert store.held("lock") == 3
        assert [store.release("lock", each.token) for each in claims] == [True] * 3
        assert not crowd(store)
        last = granted(store, mine := claim())
        assert last > tokens[-1]
        assert [holder.token for holder in store.holders("lock")] == [mine.token]
        assert ask(store, "SELECT count(*) FROM celery_locks_holder") == [(0,)]

    def test_one_that_asks_once_leaves_the_row_as_it_is(self, postgresql: str, open_: Any) -> None:
        store, mine = open_(postgresql), claim()
        granted(store, mine)
        before = ask(store, "SELECT * FROM celery_locks_lock")
        answer = store.acquire(claim())
        assert isinstance(answer, Refused)
        assert [holder.token for holder in answer.holders] == [mine.token]
        assert 0 < answer.retry_in <= 60.0
        assert ask(store, "SELECT * FROM celery_locks_lock") == before

    def test_one_that_has_expired_hears_it_from_its_successor_s_time(self, url: str, open_: Any) -> None:
        store, dead = open_(url), claim()
        granted(store, dead)
        expire(store)
        assert store.holders("lock") == ()
        granted(store, mine := claim())
        assert store.renew([Renewal("lock", each.token, 60.0) for each in (dead, mine)]) == ["expired", None]
        assert not store.release("lock", dead.token)

    def test_a_lock_of_an_older_release_is_a_crowd(self, url: str, open_: Any) -> None:
        """Its holders are in their own table, though nothing in the lock's row says so."""
        store, mine = open_(url), claim()
        granted(store, mine)
        store.acquire(claim(), 0.001)
        for column in ("ended", "token", "owner", "permits", "most", "since", "deadline", "crowd"):
            tell(store, f"ALTER TABLE celery_locks_lock DROP COLUMN {column}")
        tell(store, "ALTER TABLE celery_locks_lock ADD COLUMN released varchar(99) NOT NULL DEFAULT 'x'")
        tell(store, "UPDATE celery_locks_meta SET version = 1, oldest = 0")
        newer = open_(url)
        assert isinstance(newer.acquire(claim()), Refused)
        assert newer.renew([Renewal("lock", mine.token, 60.0)]) == [None]
        assert newer.release("lock", mine.token)
        granted(newer, claim())
        with pytest.raises(StoreUnavailable):  # an older release that runs does neither
            tell(store, "UPDATE celery_locks_lock SET released = ''")

    def test_it_answers_as_rows_of_holders_do(self, url: str, open_: Any) -> None:
        """Random requests to two locks: one whose only holder is in its row, one whose holders never are."""
        store, random, tokens = open_(url), Random(7), [f"{number}" for number in range(4)]
        holders: dict[str, list[tuple[str, int]]] = {"row": [], "table": []}

        def request(name: str, what: str, token: str, limit: int, line_up: float | None) -> object:
            if name == "table":  # it stays a crowd
                store._write(name, lambda session: None)
                tell(store, "UPDATE celery_locks_lock SET crowd = 1 WHERE name = 'table'")
            if what == "acquire":
                answer = store.acquire(Claim(name, token, "tester", 60.0, limit), line_up)
                return type(answer), getattr(answer, "position", None)
            if what == "leave":
                return store.leave(name, token)
            if what == "renew":
                return store.renew([Renewal(name, token, 60.0)])
            if what == "shrink":
                return store.shrink(name, token, 1)
            if what == "force":
                return [holder.token for holder in store.force_release(name, token)]
            if what == "expire":
                return expire(store, name)
            return store.release(name, token)

        for number in range(80):
            what = random.choice(["acquire"] * 4 + ["release"] * 3 + ["leave", "renew", "shrink", "force", "expire"])
            token = random.choice(tokens if what == "renew" else tokens[-4:])
            asked = (what, token, random.choice([1, 1, 1, 2]), random.choice([None, None, 60.0]))
            if what == "expire":  # no token is used again after it has expired
                tokens += [f"{number}.{each}" for each in range(4)]
            answers = [request(name, *asked) for name in holders]
            assert answers[0] == answers[1], (number, asked)
            for name, known in holders.items():
                now = [(holder.token, holder.permits) for holder in store.holders(name)]
                assert store.held(name) == sum(permits for _, permits in now)
                known[:] = now
            assert holders["row"] == holders["table"], (number, asked)
            assert store.waiting("row") == store.waiting("table")


class TestTables:
    def test_nothing_stays(self, url: str, open_: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(sweeper, "MOST_ROWS_SWEPT", 10)
        store = open_(url)
        for number in range(15):
            granted(store, claim(f"{number}", ttl=0.001))
            store.acquire(claim(f"{number}"), line_up=0.001)
        granted(store, living := claim("living"))
        for number in range(15):
            granted(store, writer := claim(f"written {number}"))
            assert store.write(writer.name, writer.token, "value", 60.0)
        assert store.write("living", living.token, "value", 60.0)
        long_ago = int(1e6 * (time.time() - 3600))
        for table in ("holder", "waiter", "value", "lock"):
            tell(store, f"UPDATE celery_locks_{table} SET deadline = ? WHERE name <> 'living'", long_ago)
        sweeps = 0
        for _ in range(2):  # a lock's row whose other rows are still there is looked at again later
            tell(store, "UPDATE celery_locks_lock SET forget_at = ? WHERE name <> 'living'", long_ago)
            while store._sweeper.sweep():
                sweeps += 1
                assert sweeps < 20
        assert sweeps >= 1
        for table in ("holder", "lock", "value"):  # to write a value takes more than the lock's row
            assert ask(store, f"SELECT name FROM celery_locks_{table}") == [("living",)]
        assert ask(store, "SELECT count(*) FROM celery_locks_waiter") == [(0,)]
        assert store.release("living", living.token)

    def test_each_writer_sweeps(self, url: str, open_: Any) -> None:
        store = open_(url)
        for name in ("dead", "living"):
            granted(store, claim(name))
            assert isinstance(store.acquire(claim(name), 60.0), Refused)
        tell(store, "UPDATE celery_locks_holder SET deadline = 1 WHERE name = 'dead'")
        store._sweeper._next = 0.0
        granted(store, claim("another"))
        assert ask(store, "SELECT name FROM celery_locks_holder") == [("living",)]

    def test_promise_3_fencing_grows_when_rows_are_gone_and_the_clock_is_set_back(self, url: str, open_: Any) -> None:
        store, mine = open_(url), claim()
        granted(store, mine)
        ahead = int(1e6 * (time.time() + 10 * 365 * 86400))  # given before the clock was set back by ten years
        tell(store, "UPDATE celery_locks_lock SET fence = ?", ahead)
        store.release("lock", mine.token)
        again = claim()
        assert granted(store, again) > ahead
        store.release("lock", again.token)
        tell(store, "UPDATE celery_locks_lock SET forget_at = 1")
        store._sweeper.sweep()
        assert ask(store, "SELECT count(*) FROM celery_locks_lock") == [(0,)]
        assert granted(store, claim()) > ahead + 1

    def test_a_clock_that_is_set_back_ends_no_lease_twice(self, url: str, open_: Any) -> None:
        """A lock's time never goes back: who was seen as expired stays so."""
        store, old = open_(url), claim(ttl=60.0)
        granted(store, old)
        tell(store, "UPDATE celery_locks_lock SET touched = touched + 120000000")
        assert store.holders("lock") == ()
        assert store.renew([Renewal("lock", old.token, 60.0)]) == ["expired"]
        granted(store, new := claim())
        assert not store.release("lock", old.token)
        assert [holder.token for holder in store.holders("lock")] == [new.token]

    def test_a_migration_may_make_them(self, server: DatabaseServer, url: str, prefix: str, open_: Any) -> None:
        ddl = schema_sql(url)
        assert PASSWORD not in ddl
        store = open_(url)
        for _ in range(2):  # safe to run again
            for statement in ddl.split(";\n"):
                if statement.strip():
                    store._database.single(lambda db, s=statement: db.run(s))  # type: ignore[misc]
        store._database.make_schema = lambda: pytest.fail("the tables were there")  # type: ignore[method-assign]
        granted(store, claim())
        assert ask(store, f"SELECT count(*) FROM {prefix}lock") == [(1,)]

    def test_collisions_are_tried_again(self, url: str, open_: Any) -> None:
        store, tries = open_(url), 0
        store.ping()
        collision = next(iter(store._database.dialect.collisions))

        def work(session: Any) -> str:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise _collision(store, collision)
            return "done"

        assert store._write("lock", work) == "done"
        assert tries == 4

    def test_a_row_is_all_that_a_lock_keeps_from_others(self, url: str, open_: Any) -> None:
        """While one transaction has a lock, others have other locks."""
        store, other = open_(url), open_(url)
        store.ping()
        entered, go_on = threading.Event(), threading.Event()

        def work(session: Any) -> None:
            assert isinstance(session, LockedSession)
            entered.set()
            go_on.wait(1.5)

        holder = threading.Thread(target=store._write, args=("lock", work), daemon=True)
        holder.start()
        assert entered.wait(SOON)
        granted(other, claim("another"))
        go_on.set()
        holder.join(SOON)
        assert not holder.is_alive()


def _collision(store: ServerStore, code: Any) -> Exception:
    dbapi = store._database._engine().dialect.loaded_dbapi
    if isinstance(code, int):
        return dbapi.OperationalError(code, "deadlock")  # type: ignore[no-any-return]
    return psycopg.errors.lookup(code)("deadlock")


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "advice"),
        [
            ("postgresql://h", "names no database"),
            ("mysql://h/", "names no database"),
            ("postgresql://h/db?table_prefix=A-b", "lowercase letters"),
            ("postgresql://h/db?table_prefix=" + "a" * 31, "lowercase letters"),
            ("postgresql://u:p@ss@h:port/db", "%40"),
        ],
    )
    def test_bad_urls(self, url: str, advice: str) -> None:
        with pytest.raises(LockConfigError, match=advice) as caught:
            open_store(url)
        assert "p@ss" not in str(caught.value)

    @pytest.mark.parametrize(
        ("package", "url", "extra"),
        [
            ("psycopg", "postgresql://h/db", "postgresql"),
            ("sqlalchemy", "postgresql://h/db", "postgresql"),
            ("pymysql", "mysql://h/db", "mysql"),
            ("sqlalchemy", "mariadb://h/db", "mysql"),
        ],
    )
    def test_a_missing_driver_names_what_to_install(self, package: str, url: str, extra: str) -> None:
        program = (
            f"import sys; sys.modules[{package!r}] = None\n"
            "from celery_locks.stores import open_store\n"
            f"try: open_store({url!r})\nexcept Exception as error: print(repr(error))"
        )
        said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert f'LockConfigError("the lock store at {url} needs the package {package}: ' in said.stdout
        assert f"pip install 'celery-locks[{extra}]'" in said.stdout

    def test_listening_elsewhere(self) -> None:
        address = Address("postgresql://u:p%40@pooler:6432/db?listen=direct:5432&sslmode=require")
        assert address.listen is not None
        assert (address.listen.host, address.listen.port, address.listen.password) == ("direct", 5432, "p@")
        assert (address.url.host, dict(address.url.query)) == ("pooler", {"sslmode": "require"})

    def test_no_schema_for_other_stores(self) -> None:
        with pytest.raises(LockConfigError, match="needs no schema"):
            schema_sql("redis://h")


class TestCostOfParking:
    """In statements: what one transaction has read, it does not read again."""

    def test_a_step_asks_for_each_fact_once(self, url: str, open_: Any) -> None:
        store = open_(url)
        first, which = claim(), 0 if "postgresql" in url else 1
        assert isinstance(store.enter(first, Ticket("first", "", "task", broker="b")), Granted)
        store._sweeper._next = time.monotonic() + SOON
        sent: dict[str, list[str]] = {}

        def step(name: str, work: Callable[[], Any]) -> Any:
            with counted() as statements:
                answer = work()
            sent[name] = list(statements)
            return answer

        assert isinstance(step("ask", lambda: store.park(claim(), Ticket("one", "", "task", broker="b"))), Parked)
        for id in ("one", "two"):
            parked = step("park", lambda id=id: store.park(claim(), Ticket(id, "message", "task", broker="b")))
            assert isinstance(parked, Parked)
        _, dispatches = step("end", lambda: store.end_run("lock", first.token, "final", broker="b"))
        assert [dispatch.id for dispatch in dispatches] == ["one"]
        answer = step("enter", lambda: store.enter(claim(), Ticket("one", "", "task", broker="b", count=1)))
        assert isinstance(answer, Granted)
        assert not any("INSERT" in each or "UPDATE" in each or "move_holder" in each for each in sent["ask"])
        most = {"ask": (8, 9), "park": (16, 18), "end": (17, 18), "enter": (13, 15)}  # PostgreSQL, MariaDB
        dear = {name: (len(sent[name]), sent[name]) for name in sent if len(sent[name]) > most[name][which]}
        assert not dear, dear
