"""The stores in database servers, held against the contract, in real time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.sql.store import ServerStore
from celery_locks.testing import ListingCompliance, ParkingCompliance, StoreCompliance, ValueCompliance
from tests.stores.test_sql import lost_replies

#: Seconds that `FIRST_DISPATCH` and `STORE_GRACE` last here, for tests that wait for their end.
FIRST_DISPATCH = STORE_GRACE = 1.5


class Briefly:
    """On servers that many tests share, each call some statements: no more of them than shows something."""

    threads, rounds = 4, 6
    first_dispatch, store_grace = FIRST_DISPATCH, STORE_GRACE

    @pytest.fixture(autouse=True)
    def _called_briefly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("celery_locks.stores.tickets.FIRST_DISPATCH", FIRST_DISPATCH)
        monkeypatch.setattr("celery_locks.stores.tickets.STORE_GRACE", STORE_GRACE)

    @contextmanager
    def losing_a_reply(self, store: ServerStore) -> Iterator[Store]:
        with lost_replies(store) as lost:
            yield store
        assert lost


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
