"""A space: what all locks of one `Locks` have in common."""

from __future__ import annotations

from dataclasses import dataclass

from celery_locks._runtime.clock import Clock
from celery_locks.keys.names import name_of
from celery_locks.stores.base import Store


@dataclass
class Space:
    """The names of one prefix in one store, as one user of them sees it.

    Attributes:
        store: The store.
        url: Its address without the password, or the name of its class.
        prefix: What all names begin with.
        owner: The holder's name that others see, ``None`` for host and process id.
        clock: What the deadlines of leases are watched by.
        store_name: The name of the store among those of an app.
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
            LockConfigError: It lacks it.
        """
        if not getattr(self.store, capability):  # the usual case without the module
            from celery_locks.stores.capabilities import require

            require(self.store, capability, feature, key)
