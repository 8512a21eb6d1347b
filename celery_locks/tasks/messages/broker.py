"""The identity of an app's broker. A parked task is dispatched by workers of its own broker only."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

from celery_locks.tasks.app_settings import BROKER

_LOCAL = {"", "127.0.0.1", "::1", "localhost"}

_ids: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def broker_id(app: Any) -> str:
    """Return the identity of an app's broker, which is the same for all apps that use the broker.

    It is made of the address without user, password and options. Of several addresses the first one counts.
    """
    known = _ids.get(app)
    return _ids.setdefault(app, _made(app)) if known is None else known


def _made(app: Any) -> str:
    name = app.conf.get(BROKER)
    if name is None:
        try:
            name = _address(app)
        except (KeyError, ImportError):  # kombu's transport is not installed, so this process publishes nothing
            name = str(app.conf.broker_url).rpartition("@")[2]
    return hashlib.sha256(str(name).encode()).hexdigest()[:12]


def _address(app: Any) -> str:
    connection = app.connection_for_write()  # does not connect
    info, driver = connection.info(), connection.transport.driver_type
    host = str(info.get("hostname") or "").lower()
    options = info.get("transport_options") or {}
    database = str(info.get("virtual_host") or "").strip("/")
    parts = (
        driver,
        "localhost" if host in _LOCAL else host,
        info.get("port") or "",
        database or ("0" if driver == "redis" else ""),
        options.get("global_keyprefix", ""),
        options.get("master_name", ""),
    )
    return "\n".join(map(str, parts))
