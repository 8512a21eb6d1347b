"""The capabilities of stores. A store declares them, features require them, and the documentation lists them."""

from __future__ import annotations

from importlib import import_module

from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store
from celery_locks.stores.parking import Parking, tickets_of

#: Attribute of a `Store` → its meaning when it is true.
CAPABILITIES = {
    "shared": "leases that other processes see",
    "machines": "leases that other machines see",
    "fencing": "fencing tokens",
    "semaphores": "limits above one",
    "fair": "a line served first come, first served",
    "wakes": "waiters woken, not polled",
    "parks": "a line for tasks",
    "lists": "a list of what is held",
    "values": "values kept with keys",
    "notices": "holders notified within 100 ms of a forced release or a replacement",
}

#: Address → module and class of the store.
_STORES = {
    "`redis://`, `valkey://`": ("celery_locks.stores.redis.store", "RedisStore"),
    "`postgresql://`": ("celery_locks.stores.sql.postgresql", "PostgreSQLStore"),
    "`mysql://`": ("celery_locks.stores.sql.store", "ServerStore"),
    "`redis+sentinel://`": ("celery_locks.stores.redis.store", "RedisStore"),
    "`redis+cluster://`": ("celery_locks.stores.redis.cluster", "RedisClusterStore"),
    "`redlock://`": ("celery_locks.stores.redis.redlock", "Redlock"),
    "`sqlite://`": ("celery_locks.stores.sqlite", "SQLiteStore"),
    "`memory://`": ("celery_locks.stores.memory", "MemoryStore"),
}


def has(store: Store | type[Store], capability: str) -> bool:
    """Return whether a store, or a class of stores, has a capability."""
    if capability == "parks":
        return issubclass(store, Parking) if isinstance(store, type) else tickets_of(store) is not None
    return bool(getattr(store, capability))


def require(store: Store, capability: str, feature: str, key: str | None = None) -> None:
    """Refuse a feature for which the store lacks a capability.

    Raises:
        LockConfigError: The store lacks it. The message names stores that have it.
    """
    if not has(store, capability):
        others = ", ".join(address.replace("`", "") for address, kind in stores().items() if has(kind, capability))
        raise LockConfigError(
            f"{feature} needs a store with {CAPABILITIES[capability]}, and {type(store).__name__} has none; "
            f"those at {others} have",
            key,
        )


def stores() -> dict[str, type[Store]]:
    """Return the classes of stores by their addresses, without those whose driver is not installed."""
    known = ((address, _store(module, name)) for address, (module, name) in _STORES.items())
    return {address: kind for address, kind in known if kind is not None}


def _store(module: str, name: str) -> type[Store] | None:
    try:
        kind: type[Store] = getattr(import_module(module), name)
    except (ModuleNotFoundError, LockConfigError):  # its driver is not installed
        return None
    return kind


def table() -> str:
    """Return the capabilities of all stores, as a table in Markdown."""
    known = stores()
    lines = [f"| | {' | '.join(known)} |", f"|---|{'---|' * len(known)}"]
    for capability, meaning in CAPABILITIES.items():
        marks = ("yes" if has(kind, capability) else "no" for kind in known.values())
        lines.append(f"| {meaning} (`{capability}`) | {' | '.join(marks)} |")
    return "\n".join(lines)
