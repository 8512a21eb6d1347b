"""`Space`: the store, the prefix, the owner and the clock that all locks of a `Locks` share."""

from __future__ import annotations

from dataclasses import dataclass

from celery_locks._runtime.clock import Clock
from celery_locks.keys.names import name_of
from celery_locks.stores.base import Store


@dataclass
class Space:
    """The names of one prefix in one store.

    Attributes:
        store: The store.
        url: The store's address without the password, or the name of its class.
        prefix: The beginning of all names.
        owner: The holder's name that others see, ``None`` for host and process id.
        clock: The clock of the leases' deadlines.
        store_name: The name of the store among the stores of an app.
    """

    store: Store
    url: str
    prefix: str
    owner: str | None
    clock: Clock
    store_name: str

    def name(self, key: str, part: str = "") -> str:
        """Return the full name of a key in the store, or of a part of it; see `celery_locks.keys.names`."""
        return name_of(self.prefix, key, part)

    def require(self, capability: str, feature: str, key: str | None = None) -> None:
        """Refuse a feature for which the store lacks a capability.

        Raises:
            LockConfigError: The store lacks the capability.
        """
        if not getattr(self.store, capability):  # usually False, so the module is not loaded
            from celery_locks.stores.capabilities import require

            require(self.store, capability, feature, key)
