"""``redlock://``: leases held by a majority of independent Redis or Valkey servers."""

from celery_locks.stores.redis.redlock.store import Redlock, open_redlock

__all__ = ["Redlock", "open_redlock"]
