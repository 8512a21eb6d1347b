"""Stores by URL; each is imported only when its URL is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from urllib.parse import urlsplit

from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store

#: scheme → (module, function that takes the URL and gives the store)
_OPENERS = {
    "memory": ("celery_locks.stores.memory", "open_memory"),
    "sqlite": ("celery_locks.stores.sqlite", "open_sqlite"),
    "redis": ("celery_locks.stores.redis.store", "open_redis"),
    "rediss": ("celery_locks.stores.redis.store", "open_redis"),
    "redis+socket": ("celery_locks.stores.redis.store", "open_redis"),
    "unix": ("celery_locks.stores.redis.store", "open_redis"),
    "valkey": ("celery_locks.stores.redis.store", "open_redis"),
    "valkeys": ("celery_locks.stores.redis.store", "open_redis"),
}


def open_store(url: str) -> Store:
    """The store that a URL names. Nothing is connected yet.

    Raises:
        LockConfigError: No store has this scheme, the URL can't be read, or the store's driver is not installed.
    """
    scheme = url.partition(":")[0].lower()
    try:
        module, function = _OPENERS[scheme]
    except KeyError:
        near = get_close_matches(scheme, _OPENERS, 1)
        hint = f"; did you mean {near[0]}://?" if near else ""
        known = ", ".join(f"{name}://" for name in _OPENERS)
        raise LockConfigError(f"no lock store has the scheme {scheme}://{hint} Known: {known}.") from None
    try:
        store: Store = getattr(import_module(module), function)(url)
    except ValueError as error:
        raise LockConfigError(f"the address of the lock store, {mask(url)}, can't be read: {error}") from error
    return store


def mask(url: str) -> str:
    """The URL without its password, for logs and errors."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition(':')[0]}://…"
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()
