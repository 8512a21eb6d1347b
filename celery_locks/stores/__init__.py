"""Stores by URL; each is imported only when its URL is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, TypeVar

from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store

T = TypeVar("T")

__all__ = ["Store", "open_store", "schema_sql"]

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
    "redlock": ("celery_locks.stores.redlock", "open_redlock"),
    "redis+redlock": ("celery_locks.stores.redlock", "open_redlock"),
    "rediss+redlock": ("celery_locks.stores.redlock", "open_redlock"),
    "valkey+redlock": ("celery_locks.stores.redlock", "open_redlock"),
    "valkeys+redlock": ("celery_locks.stores.redlock", "open_redlock"),
}

#: package → the extra that brings it, where they differ; SQLAlchemy comes with the scheme's own
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}


#: What comes before user and password in an address.
_SCHEME = re.compile(r"\s*(?:sharded:)?[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_COLON = re.compile(":|%3a", re.IGNORECASE)
#: A parameter that holds a secret. A piece without "=" that follows belongs to it: its "&" is not percent-encoded.
_SECRET = re.compile(r"([?&;#](?=[^=&;]*(?:pass|pwd|secret|token))[^=&;]*=)[^&]+(?:&[^=&]*(?=&|\Z))*", re.IGNORECASE)
#: A URL within a text, up to a space. A colon without a port after it may begin a password that contains spaces.
_URL = re.compile(
    r"\b[a-z][\w+.-]*://"
    r"(?:\S*@\S*|(?!\[[\da-f:.]*\])[^\s/?#@:]*:(?!\d*(?:[^\w\s@]|\s|\Z)).{1,200}?@\S*|\S*)",
    re.IGNORECASE | re.DOTALL,
)


def open_store(url: str) -> Store:
    """The store that a URL names. Nothing is connected yet.

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


def schema_sql(url: str) -> str:
    """The statements that make the tables of a database store, for a migration; safe to run again.

    Connects to nothing.

    Args:
        url: The store's, ``postgresql://…`` or ``mysql://…``.

    Raises:
        LockConfigError: The URL can't be read, its store needs no such statements, or SQLAlchemy is not installed.
    """
    scheme = url.partition(":")[0].lower()
    if _OPENERS.get(scheme, ("", ""))[1] != "open_server":
        raise LockConfigError(f"{mask(url)} needs no schema: stores of postgresql:// and mysql:// do")
    try:
        text: str = reads_address(import_module("celery_locks.stores.sql.address").schema_of)(url)
    except ModuleNotFoundError as error:
        raise _missing(url, scheme, error) from error
    return text


def _missing(url: str, scheme: str, error: ModuleNotFoundError) -> Exception:
    """What a package that is not installed means."""
    package = error.name or ""
    if package.startswith("celery_locks"):
        return error
    extra = _EXTRAS.get(package, package)
    if package == "sqlalchemy":
        extra = "postgresql" if scheme == "postgresql" else "mysql"
    return LockConfigError(
        f"the lock store at {mask(url)} needs the package {package}: pip install 'celery-locks[{extra}]'"
    )


def reads_address(function: Callable[..., T]) -> Callable[..., T]:
    """Decorate a function of an address: a ``ValueError`` of reading it becomes a `LockConfigError` without secrets."""

    @wraps(function)
    def read(url: str, *args: Any) -> T:
        try:
            return function(url, *args)
        except ValueError as error:
            # Python's own words may quote a password that is not percent-encoded, and so may what caused the error.
            why = ENCODE if "@" in url or mask(url) != url else error
            unreadable = LockConfigError(f"the address of the lock store, {mask(url)}, can't be read: {why}")
        raise unreadable  # outside, so that the error has no context

    return read


#: What to do about an address that can't be read.
ENCODE = "special characters in user and password are written as %40 and the like"


def addresses_in(text: str) -> list[str]:
    """Return the addresses of a setting of Celery, which has ";" between them."""
    return re.split(r";(?=[a-z][\w+.-]*://)", text, flags=re.IGNORECASE)


def login_of(url: str) -> tuple[str, str]:
    """Return user and password of an address as they are written. They end at the last "@"."""
    scheme, end = _SCHEME.match(url), url.rfind("@")
    begin = scheme.end() if scheme else 0
    colon = _COLON.search(url, begin, max(begin, end))
    return (url[begin : colon.end()], url[colon.end() : end]) if colon else (url[begin : max(begin, end)], "")


def is_ambiguous(url: str) -> bool:
    """Return whether a library may take a part of the password for something else, and print it."""
    user, password = login_of(url)
    return bool(password) and not {*"/?#"}.isdisjoint(user + password)


def mask(url: str) -> str:
    """Return an address without its passwords, for logs and errors, however malformed it is."""
    _, password = login_of(url)
    if not password:
        return _SECRET.sub(r"\1***", url)
    end = url.rindex("@")
    before, after = url[: end - len(password)], url[end + 1 :]
    if _SECRET.search(f"?{password}"):  # the "@" may be that of a parameter, and more of it follow
        return f"{before}***"
    return f"{before}***@" + _SECRET.sub(r"\1***", after)


def mask_text(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    return _URL.sub(lambda url: mask(url[0]), text) if "://" in text else text
