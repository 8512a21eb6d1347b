"""``redis+sentinel://``: the master that Sentinels name, found again at each new connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from celery_locks.errors import LockConfigError
from celery_locks.stores.redis.wire.driver import Driver
from celery_locks.stores.redis.wire.urls import Address

if TYPE_CHECKING:
    import redis


def master(address: Address) -> redis.Redis:
    """Return a client of a service's master, which is not connected yet.

    ``redis+sentinel://user:password@host1,host2:26379/service/0?sentinel_username=…&sentinel_password=…``: user and
    password before the hosts are those of the servers. With ``rediss`` both use TLS.

    Raises:
        LockConfigError: The service is missing, or the database is not a number.
    """
    service, _, db = address.path.partition("/")
    if not service or not (db or "0").isdigit():
        raise LockConfigError(
            f"{address.masked} doesn't say which service's master to use: "
            "write redis+sentinel://host1,host2/service/0, where 0 is the database"
        )
    settings = address.settings()
    tls = settings.pop("connection_class", None) is not None
    sentinel = address.driver.sentinel(list(address.hosts), sentinel_kwargs=_sentinel_settings(address, settings, tls))
    client = sentinel.master_for(service, **settings, db=int(db or "0"), **({"ssl": True} if tls else {}))
    return cast("redis.Redis", client)


class SentinelClient:
    """A client of one Sentinel, with readable errors.

    If no Sentinel knows the master, the library's error has the ``repr`` of each client and of its error. The library's
    own would show all settings, and not what was wrong. These show the address, and the text of the error.
    """

    def __init__(self, client: Any, driver: Driver) -> None:
        self._client = client
        self._driver = driver

    def __repr__(self) -> str:
        place = self._client.connection_pool.connection_kwargs
        return f"{place['host']}:{place['port']}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sentinel_masters(self) -> Any:
        try:
            return self._client.sentinel_masters()
        except self._driver.broken as error:
            raise _error_with_text(self._driver.connection_error, f"{type(error).__name__}: {error}") from error
        finally:
            # The next request is far off, and an idle connection may break. Other threads may use theirs now.
            self._client.connection_pool.disconnect(inuse_connections=False)


def _error_with_text(kind: type[Exception], text: str) -> Exception:
    """Return an error whose ``repr`` is its text."""
    return type(kind.__name__, (kind,), {"__repr__": kind.__str__})(text)  # type: ignore[no-any-return]


def _sentinel_settings(address: Address, settings: dict[str, Any], tls: bool) -> dict[str, Any]:
    """Return the settings for Sentinels: they share TLS with the servers, and have users of their own."""
    shared = {name: value for name, value in settings.items() if name.startswith("ssl_") or name == "protocol"}
    own = {
        name.removeprefix("sentinel_"): value
        for name, value in address.own.items()
        if name in ("sentinel_username", "sentinel_password")
    }
    return {**shared, **own, **({"ssl": True} if tls else {})}
