"""Stores by their URLs. A store's module is imported when the first store of its scheme is opened."""

from __future__ import annotations

import re
from importlib import import_module

from celery_locks._addresses import mask, reads_address
from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store

__all__ = ["Store", "open_store", "schema_sql"]

#: Scheme → module, and the function that makes a store of a URL.
_OPENERS = {
    "memory": ("celery_locks.stores.memory", "open_memory"),
    "sqlite": ("celery_locks.stores.sqlite", "open_sqlite"),
    "redis": ("celery_locks.stores.redis.store", "open_redis"),
    "rediss": ("celery_locks.stores.redis.store", "open_redis"),
    "redis+socket": ("celery_locks.stores.redis.store", "open_redis"),
    "unix": ("celery_locks.stores.redis.store", "open_redis"),
    "valkey": ("celery_locks.stores.redis.store", "open_redis"),
    "valkeys": ("celery_locks.stores.redis.store", "open_redis"),
    "postgresql": ("celery_locks.stores.sql.open", "open_server"),
    "mysql": ("celery_locks.stores.sql.open", "open_server"),
    "mariadb": ("celery_locks.stores.sql.open", "open_server"),
    "redis+sentinel": ("celery_locks.stores.redis.store", "open_redis"),
    "rediss+sentinel": ("celery_locks.stores.redis.store", "open_redis"),
    "valkey+sentinel": ("celery_locks.stores.redis.store", "open_redis"),
    "valkeys+sentinel": ("celery_locks.stores.redis.store", "open_redis"),
    "redis+cluster": ("celery_locks.stores.redis.cluster", "open_cluster"),
    "rediss+cluster": ("celery_locks.stores.redis.cluster", "open_cluster"),
    "valkey+cluster": ("celery_locks.stores.redis.cluster", "open_cluster"),
    "valkeys+cluster": ("celery_locks.stores.redis.cluster", "open_cluster"),
    "sharded": ("celery_locks.stores.sharded", "open_sharded"),
    "redlock": ("celery_locks.stores.redis.redlock", "open_redlock"),
    "redis+redlock": ("celery_locks.stores.redis.redlock", "open_redlock"),
    "rediss+redlock": ("celery_locks.stores.redis.redlock", "open_redlock"),
    "valkey+redlock": ("celery_locks.stores.redis.redlock", "open_redlock"),
    "valkeys+redlock": ("celery_locks.stores.redis.redlock", "open_redlock"),
}

#: Package → the extra that installs it, where the names differ. For SQLAlchemy it depends on the scheme.
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}


def open_store(url: str) -> Store:
    """Return the store of a URL. It connects at its first request.

    Raises:
        LockConfigError: No store has this scheme, the URL can't be read, or the store's driver is not installed.
    """
    scheme = url.partition(":")[0].lower()
    try:
        module, function = _OPENERS[scheme]
    except KeyError:
        from difflib import get_close_matches  # for an error only

        near = get_close_matches(scheme, _OPENERS, 1)
        hint = f"; did you mean {near[0]}://?" if near else ""
        known = ", ".join(f"{name}://" for name in _OPENERS)
        shown = scheme if re.fullmatch(r"[\w+.-]*", scheme) else "***"  # it may be a password
        raise LockConfigError(f"no lock store has the scheme {shown}://{hint} Known: {known}.") from None
    try:
        store: Store = reads_address(getattr(import_module(module), function))(url)
    except ModuleNotFoundError as error:
        raise _missing(url, scheme, error) from error
    return store


def schema_sql(url: str, *, upgrade: bool = False) -> str:
    """Return the statements that make the tables of a database store, for a migration; safe to run again.

    Connects to nothing.

    Args:
        url: The store's, ``postgresql://…`` or ``mysql://…``.
        upgrade: Return only the statements that upgrade the tables of an older version.

    Raises:
        LockConfigError: The URL can't be read, its store needs no tables, or SQLAlchemy is not installed.
    """
    scheme = url.partition(":")[0].lower()
    if _OPENERS.get(scheme, ("", ""))[1] != "open_server":
        raise LockConfigError(f"{mask(url)} needs no schema: stores of postgresql:// and mysql:// do")
    try:
        text: str = reads_address(import_module("celery_locks.stores.sql.address").schema_of)(url, upgrade)
    except ModuleNotFoundError as error:
        raise _missing(url, scheme, error) from error
    return text


def _missing(url: str, scheme: str, error: ModuleNotFoundError) -> Exception:
    """Return the error for a package that is not installed."""
    package = error.name or ""
    if package.startswith("celery_locks"):
        return error
    extra = _EXTRAS.get(package, package)
    if package == "sqlalchemy":
        extra = "postgresql" if scheme == "postgresql" else "mysql"
    return LockConfigError(
        f"the lock store at {mask(url)} needs the package {package}: pip install 'celery-locks[{extra}]'"
    )
