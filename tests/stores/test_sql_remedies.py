"""What an error of a database means: the printed statements are run, and give the user what it lacked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import quote

import pytest

from celery_locks import StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.sql import remedies
from celery_locks.stores.sql.dialects import MySQL, PostgreSQL
from tests.support.sql_servers import DatabaseServer, MariaDBServer, PostgresServer

pytestmark = pytest.mark.timeout(200)

GRANT = re.compile(r"GRANT [^;]+")


def failure(url: str) -> str:
    """What a tried write states; empty where it succeeds."""
    with closing(open_store(url)) as store:
        try:
            store.try_writes("site", parks=True)
        except StoreUnavailable as error:
            return str(error)
    return ""


def assert_the_grant_is_enough(url: str, run: Callable[[str], Any]) -> str:
    """Run the printed statement as the owner. Returns it."""
    text = failure(url)
    found = GRANT.search(text)
    assert found, text
    run(found[0])
    assert failure(url) == ""
    return found[0]


def with_tables(server: DatabaseServer, prefix: str) -> str:
    """Make the tables as their owner, and return the query of their addresses."""
    query = f"table_prefix={prefix}"
    with closing(open_store(server.url(query=query))) as store:
        store.try_writes("site", parks=True)
    return query


# ---------------------------------------------------------------------- PostgreSQL


@pytest.fixture
def postgresql(postgresql_server: PostgresServer) -> Iterator[Any]:
    """A connection of the owner."""
    import psycopg

    with psycopg.connect(postgresql_server.url(), autocommit=True) as db:
        yield db


@pytest.fixture
def prefix() -> str:
    return f"rights_{os.urandom(4).hex()}_"


@pytest.fixture(params=["shop-app", "user", "Shop", "shop_app"])
def postgresql_user(request: pytest.FixtureRequest, postgresql: Any) -> Iterator[str]:
    user: str = request.param
    postgresql.execute(f"""CREATE USER "{user}" PASSWORD 'secret'""")
    yield user
    postgresql.execute(f'DROP OWNED BY "{user}"')
    postgresql.execute(f'DROP USER "{user}"')


def give_all(db: Any, prefix: str, user: str) -> None:
    for (table,) in db.execute(
        "SELECT tablename FROM pg_tables WHERE starts_with(tablename, %s)", (prefix,)
    ).fetchall():
        db.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO "{user}"')


def of_user(server: PostgresServer, user: str, query: str) -> str:
    return f"postgresql://{quote(user)}:secret@127.0.0.1:{server.port}/locks?{query}"


@pytest.mark.parametrize("lacks", ["table", "function", "schema", "database"])
def test_the_grant_of_postgresql(
    postgresql_server: PostgresServer, postgresql: Any, postgresql_user: str, prefix: str, lacks: str
) -> None:
    user, query = postgresql_user, f"table_prefix={prefix}"
    with ExitStack() as after:
        if lacks == "schema":
            postgresql.execute("REVOKE CREATE ON SCHEMA public FROM public")
        else:
            with_tables(postgresql_server, prefix)
            give_all(postgresql, prefix, user)
        if lacks == "table":
            postgresql.execute(f'REVOKE INSERT ON {prefix}lock FROM "{user}"')
        if lacks == "function":
            [(name,)] = postgresql.execute(
                "SELECT oid::regprocedure::text FROM pg_proc WHERE starts_with(proname, %s)", (f"{prefix}release",)
            ).fetchall()
            postgresql.execute(f"REVOKE EXECUTE ON FUNCTION {name} FROM public")
        if lacks == "database":
            postgresql.execute("REVOKE CONNECT ON DATABASE locks FROM public")
            after.callback(postgresql.execute, "GRANT CONNECT ON DATABASE locks TO public")
        grant = assert_the_grant_is_enough(of_user(postgresql_server, user, query), postgresql.execute)
        assert grant.endswith(" TO shop_app" if user == "shop_app" else f' TO "{user}"')


def test_a_table_of_another_version(postgresql_server: PostgresServer, postgresql: Any, prefix: str) -> None:
    query = with_tables(postgresql_server, prefix)
    postgresql.execute(f"ALTER TABLE {prefix}ticket DROP COLUMN calls")
    text = failure(postgresql_server.url(query=query))
    assert "a table was made by another version" in text
    assert "celery -A … locks sql" in text
    assert "role" not in text


def test_a_user_and_a_database_that_are_missing(postgresql_server: PostgresServer) -> None:
    url = postgresql_server.url()
    assert "make the database, or name another" in failure(f"{url}_no")
    assert "check user and password" in failure(url.replace("://locks:", "://no_one:"))


# ---------------------------------------------------------------------- MariaDB


@pytest.fixture
def mariadb(mariadb_server: MariaDBServer) -> Iterator[Any]:
    """A cursor of root."""
    import pymysql

    socket = str(mariadb_server.data / "socket")
    with pymysql.connect(unix_socket=socket, user="root", autocommit=True) as db, db.cursor() as cursor:
        yield cursor


@pytest.fixture
def account(mariadb: Any) -> Iterator[str]:
    mariadb.execute("CREATE USER 'shop-app'@'127.0.0.1' IDENTIFIED BY 'secret'")
    yield "'shop-app'@'127.0.0.1'"
    mariadb.execute("DROP USER 'shop-app'@'127.0.0.1'")


@pytest.mark.parametrize("lacks", ["table", "create", "database"])
def test_the_grant_of_mariadb(
    mariadb_server: MariaDBServer, mariadb: Any, account: str, prefix: str, lacks: str
) -> None:
    query = f"table_prefix={prefix}"
    if lacks == "create":
        mariadb.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON locks.* TO {account}")
    else:
        with_tables(mariadb_server, prefix)
    if lacks == "table":
        mariadb.execute("SELECT table_name FROM information_schema.tables WHERE table_name LIKE %s", (f"{prefix}%",))
        for (table,) in mariadb.fetchall():
            rights = "SELECT, UPDATE, DELETE" + ("" if table == f"{prefix}lock" else ", INSERT")
            mariadb.execute(f"GRANT {rights} ON locks.{table} TO {account}")
    url = f"mysql://shop-app:secret@127.0.0.1:{mariadb_server.port}/locks?{query}"
    grant = assert_the_grant_is_enough(url, mariadb.execute)
    assert grant.endswith(f" TO {account}")


# ---------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        (
            "INSERT command denied to user 'bob'@'10.0.0.5' for table 'celery_locks_holder'",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON `shop`.`celery_locks_holder` TO 'bob'@'10.0.0.5'",
        ),
        (
            "SELECT command denied to user 'bob'@'10.0.0.5' for column 'name' in table 'celery_locks_holder'",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON `shop`.`celery_locks_holder` TO 'bob'@'10.0.0.5'",
        ),
        (
            "Access denied for user 'bob'@'%' to database 'shop'",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON `shop`.* TO 'bob'@'%'",
        ),
        (
            "execute command denied to user 'bob'@'10.0.0.5' for routine 'shop.f'",
            "GRANT EXECUTE ON `shop`.* TO 'bob'@'10.0.0.5'",
        ),
        ("something else", ""),
    ],
)
def test_a_grant_of_mysql(text: str, grant: str) -> None:
    assert MySQL().grant(text, "bob", "", "shop") == grant


def test_the_account_of_mysql_is_the_servers_answer() -> None:
    text = "INSERT command denied to user 'bob'@'localhost' for table `shop`.`celery_locks_holder`"
    assert MySQL().grant(text, "bob", "bob@%", "shop").endswith("ON `shop`.`celery_locks_holder` TO 'bob'@'%'")


@pytest.mark.parametrize(
    ("text", "grant"),
    [
        ("permission denied for sequence shop_seq", "GRANT USAGE ON SEQUENCE shop_seq TO bob"),
        ('permission denied for database "Shop"', 'GRANT CONNECT ON DATABASE "Shop" TO bob'),
        ('new row violates row-level security policy for table "celery_locks_holder"', ""),
    ],
)
def test_a_grant_of_postgresql(text: str, grant: str) -> None:
    assert PostgreSQL().grant(text, "bob", "", "shop") == grant


@pytest.mark.parametrize(
    ("code", "text", "remedy"),
    [
        ("26000", 'prepared statement "_pg3_0" does not exist', "Take prepare=yes out of the address"),
        ("42703", 'column "calls" does not exist', "a table was made by another version"),
        ("42704", 'type "citext" does not exist', ""),
        (None, 'root certificate file "/no" does not exist', ""),
        (None, 'FATAL:  role "bob" does not exist', "make the role, or name another in the address"),
        (None, 'FATAL:  database "shop" does not exist', "make the database, or name another in the address"),
    ],
)
def test_texts_are_read_only_without_a_code(code: str | None, text: str, remedy: str) -> None:
    found = remedies.remedy_for(Exception(text), code, remedies.POSTGRESQL, False, lambda text: "")
    assert (remedy in found) if remedy else found == ""


def test_a_right_that_is_not_known() -> None:
    """No statement is made up."""
    found = remedies.remedy_for(Exception("must be owner"), "42501", remedies.POSTGRESQL, True, lambda text: "")
    assert "GRANT" not in found
    assert "the user lacks a right" in found
