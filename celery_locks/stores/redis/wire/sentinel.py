"""``redis+sentinel://``: the master that Sentinels name, found again at each new connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from celery_locks.errors import LockConfigError
from celery_locks.stores.redis.wire.driver import Driver
from celery_locks.stores.redis.wire.urls import Address

if TYPE_CHECKING:
    import redis


def master(address: Address) -> redis.Redis:
    """A client of a service's master; nothing is connected yet.

    ``redis+sentinel://user:password@host1,host2:26379/service/0?sentinel_username=…&sentinel_password=…``: user and
    password before the hosts are those of the servers; with ``rediss`` for ``redis`` both speak TLS.

    Raises:
        LockConfigError: The service is missing, or the database is no number.
    """
    service, _, db = address.path.partition("/")
    if not service or not (db or "0").isdigit():
        raise LockConfigError(
            f"{address.masked} doesn't say which service's master to use: "
            "write redis+sentinel://host1,host2/service/0, where 0 is the database"
        )
    settings = address.settings()
    tls = settings.pop("connection_class", None) is not None
    sentinel = address.driver.sentinel(list(address.hosts), sentinel_kwargs=_of_sentinels(address, settings, tls))
    client = sentinel.master_for(service, **settings, db=int(db or "0"), **({"ssl": True} if tls else {}))
    return cast("redis.Redis", client)


class Asked:
    """A client of one Sentinel.

    Where none knows the master, the library tells of each by ``repr``: of its client all settings, of its error next to
    nothing. Here it is its address, and what was wrong: a password, a certificate, or nobody there.
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
            raise _told(self._driver.connection_error, f"{type(error).__name__}: {error}") from error
        finally:
            # The next question is far off, and an idle connection may die. Other threads may be asking.
            self._client.connection_pool.disconnect(inuse_connections=False)


def _told(kind: type[Exception], text: str) -> Exception:
    """An error whose ``repr`` is its text."""
    return type(kind.__name__, (kind,), {"__repr__": kind.__str__})(text)  # type: ignore[no-any-return]


def _of_sentinels(address: Address, settings: dict[str, Any], tls: bool) -> dict[str, Any]:
    """Sentinels share the settings of TLS with the servers, and have users of their own."""
    shared = {name: value for name, value in settings.items() if name.startswith("ssl_") or name == "protocol"}
    own = {
        name.removeprefix("sentinel_"): value
        for name, value in address.own.items()
        if name in ("sentinel_username", "sentinel_password")
    }
    return {**shared, **own, **({"ssl": True} if tls else {})}
