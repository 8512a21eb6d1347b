"""``sqlite:////path``: leases in a file, for any number of processes on one machine."""

from celery_locks.stores.sqlite.store import SQLiteStore, open_sqlite

__all__ = ["SQLiteStore", "open_sqlite"]
