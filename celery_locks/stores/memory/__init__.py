"""``memory://``: leases in one process."""

from celery_locks.stores.memory.store import MemoryStore, open_memory

__all__ = ["MemoryStore", "open_memory"]
