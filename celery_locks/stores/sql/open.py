"""Open a store in a database server by its address."""

from __future__ import annotations

from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.dialects import PostgreSQL
from celery_locks.stores.sql.mysql import MySQLStore
from celery_locks.stores.sql.postgresql import PostgreSQLStore
from celery_locks.stores.sql.store import ServerStore


def open_server(url: str) -> ServerStore:
    """Return the store at a ``postgresql://`` or ``mysql://`` URL. It connects at its first use.

    Raises:
        LockConfigError: The URL is invalid.
        ModuleNotFoundError: The database's driver is not installed.
    """
    address = Address(url)
    address.url.get_dialect().import_dbapi()
    return PostgreSQLStore(address) if isinstance(address.dialect, PostgreSQL) else MySQLStore(address)
