"""The stores in database servers, held against the contract. Records are made older in place of waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.sql.schema import SERVER_TABLES
from celery_locks.stores.sql.store import ServerStore
from celery_locks.testing import ListingCompliance, ParkingCompliance, StoreCompliance, ValueCompliance
from tests.stores.test_sql import lost_replies

#: The columns of each table that have moments of the store's clock.
MOMENTS = {
    table.name: [
        column
        for column in (each.split()[0] for each in table.columns.split(", "))
        if column in ("since", "deadline", "due", "until", "touched", "watched", "forget_at")
    ]
    for table in SERVER_TABLES
    if "name key" in table.columns
}


class Briefly:
    """On servers that many tests share: few threads, and no waits for deadlines."""

    threads, rounds = 4, 6

    @pytest.fixture(autouse=True)
    def _records_of_the_test(self, store: ServerStore, name: str) -> None:
        self._store, self._names = store, f"{name.partition(':{')[0]}%"

    def pass_time(self, seconds: float) -> None:
        """Move all moments in the records of this test back: for them, time has passed."""
        for table, columns in MOMENTS.items():
            changes = ", ".join(f"{column} = {column} - {round(seconds * 1e6) + 20_000}" for column in columns)
            statement = f"UPDATE celery_locks_{table} SET {changes} WHERE name LIKE ?"
            self._store._database.single(partial(_execute, statement, self._names))

    @contextmanager
    def losing_a_reply(self, store: ServerStore) -> Iterator[Store]:
        with lost_replies(store) as lost:
            yield store
        assert lost


def _execute(statement: str, names: str, connection: Any) -> None:
    connection.execute(statement, (names,))


class OnPostgreSQL(Briefly):
    @pytest.fixture
    def store(self, postgresql_url: str) -> Store:
        return open_store(postgresql_url)

    @pytest.fixture
    def another(self, store: Store, postgresql_url: str) -> Store:
        return open_store(postgresql_url)


class OnMariaDB(Briefly):
    @pytest.fixture
    def store(self, mariadb_url: str) -> Store:
        return open_store(mariadb_url)

    @pytest.fixture
    def another(self, store: Store, mariadb_url: str) -> Store:
        return open_store(mariadb_url)


@pytest.mark.slow
class TestPostgreSQL(OnPostgreSQL, StoreCompliance):
    pass


@pytest.mark.slow
class TestPostgreSQLParking(OnPostgreSQL, ParkingCompliance):
    pass


@pytest.mark.slow
class TestMariaDB(OnMariaDB, StoreCompliance):
    pass


@pytest.mark.slow
class TestMariaDBParking(OnMariaDB, ParkingCompliance):
    pass


@pytest.mark.slow
class TestPostgreSQLListing(OnPostgreSQL, ListingCompliance):
    pass


@pytest.mark.slow
class TestMariaDBListing(OnMariaDB, ListingCompliance):
    pass


@pytest.mark.slow
class TestPostgreSQLValues(OnPostgreSQL, ValueCompliance):
    pass


@pytest.mark.slow
class TestMariaDBValues(OnMariaDB, ValueCompliance):
    pass
