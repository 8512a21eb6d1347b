"""Opens a database store by its address."""

from __future__ import annotations

from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.dialects import PostgreSQL
from celery_locks.stores.sql.mysql import MySQLStore
from celery_locks.stores.sql.postgresql import PostgreSQLStore
from celery_locks.stores.sql.store import ServerStore


def open_server(url: str) -> ServerStore:
    """The store at a ``postgresql://`` or ``mysql://`` URL. Nothing is connected yet.

    Raises:
        LockConfigError: The URL can't be read.
        ModuleNotFoundError: The database's driver is not installed.
    """
    address = Address(url)
    address.url.get_dialect().import_dbapi()
    return PostgreSQLStore(address) if isinstance(address.dialect, PostgreSQL) else MySQLStore(address)
