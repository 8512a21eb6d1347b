"""The check of an app's settings, made when a worker starts."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from celery_locks._validation import DEFAULT_STORE, checked_ttl, did_you_mean
from celery_locks.errors import LockConfigError
from celery_locks.locks import app_store, named_stores
from celery_locks.tasks.app_settings import (
    APP_PREFIX,
    APP_SETTINGS,
    BROKER,
    CALL_TTL,
    DIRECT_DISPATCH,
    EVENTS,
    FOLDER,
    METRICS_HOST,
    METRICS_PORT,
    METRICS_STORE,
    PARK_BEFORE_POOL,
    SWEEP_INTERVAL,
    TRACES,
    options_of_app,
)
from celery_locks.tasks.options import checked_options


def check_settings(conf: Mapping[str, Any]) -> None:
    """Check an app's ``locks_…`` settings.

    Raises:
        LockConfigError: A setting is wrong, or there is no setting of this name.
    """
    _check_names(conf)
    options = checked_options(options_of_app(conf))
    for name in (*named_stores(conf), options.store):
        if name != DEFAULT_STORE:
            app_store(conf, name)
    for name in (SWEEP_INTERVAL, CALL_TTL):
        if name in conf:
            checked_ttl(conf[name], name)
    for name, (kinds, description) in _KINDS.items():
        if not isinstance(conf.get(name), (*kinds, type(None))):
            raise LockConfigError(f"{name} is {description}, not {conf[name]!r}")
    port = conf.get(METRICS_PORT)
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535):
        raise LockConfigError(f"{METRICS_PORT} is the number of a port, not {port!r}")


#: The types of settings, apart from ``None``, and their description in an error.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    FOLDER: ((str, PathLike), "a folder's path"),
    BROKER: ((str,), "a name for the broker"),
    METRICS_HOST: ((str,), "an address such as 127.0.0.1"),
    PARK_BEFORE_POOL: ((bool,), "True or False"),
    DIRECT_DISPATCH: ((bool,), "True or False"),
    METRICS_STORE: ((bool,), "True or False"),
    EVENTS: ((bool,), "True or False"),
    TRACES: ((bool,), "True or False"),
}


def _check_names(conf: Mapping[str, Any]) -> None:
    namespace = getattr(conf, "prefix", None) or ""
    for written in map(str, conf):
        # With a namespace Celery reads names that begin with it, in capitals if the namespace is. Settings that were
        # set by ``app.conf`` have no namespace.
        name = written[len(namespace) :].lower() if namespace and written.startswith(namespace) else written
        if name.startswith(APP_PREFIX) and name not in APP_SETTINGS:
            known = [namespace + (each.upper() if namespace.isupper() else each) for each in APP_SETTINGS]
            if written == name:
                known = list(APP_SETTINGS)
            raise LockConfigError(f"there is no setting {written}{did_you_mean(written, known)}")
        if not namespace and written != written.lower() and written.lower() in APP_SETTINGS:
            raise LockConfigError(f"the setting {written} is not read: write {written.lower()}")
