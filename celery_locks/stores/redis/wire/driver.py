"""The client library: redis-py, or its fork valkey-py."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from celery_locks.errors import LockConfigError

#: The libraries by the names of their modules.
NAMES = ("redis", "valkey")
Errors = tuple[type[Exception], ...]


class Driver:
    """The classes of one library that the stores use. The libraries share no classes, not even of errors."""

    def __init__(self, name: str) -> None:
        module, errors = import_module(name), import_module(f"{name}.exceptions")
        kind = name.capitalize()
        self.name = name
        self.client: Any = module.Redis
        self.pool: Any = module.ConnectionPool
        self.sentinel: Any = import_module(f"{name}.sentinel").Sentinel
        self.parse_url: Callable[[str], dict[str, Any]] = import_module(f"{name}.connection").parse_url
        self.connection: Any = module.Connection
        self._retry: Any = import_module(f"{name}.retry").Retry
        self._no_backoff: Any = import_module(f"{name}.backoff").NoBackoff
        #: The bases of all errors.
        self.errors: Errors = (getattr(errors, f"{kind}Error"), getattr(errors, f"{kind}ClusterException"))
        #: The connection failed. The server may have executed the command.
        self.broken: Errors = (errors.ConnectionError, errors.TimeoutError)
        self.connection_error: type[Exception] = errors.ConnectionError
        self.timeout_error: type[Exception] = errors.TimeoutError
        #: The server replied with an error.
        self.response_error: type[Exception] = errors.ResponseError
        self.no_script: type[Exception] = errors.NoScriptError

    def no_retry(self) -> Any:
        """Return a policy that never retries: the stores retry themselves, since they know the lease's deadline."""
        return self._retry(self._no_backoff(), 0)


@functools.cache
def driver(name: str) -> Driver:
    """Return a library.

    Raises:
        ModuleNotFoundError: It is not installed.
        LockConfigError: No library has this name.
    """
    if name not in NAMES:
        raise LockConfigError(f"a lock store has no client library {name}: write client=redis or client=valkey")
    return Driver(name)


def driver_for(scheme: str) -> Driver:
    """Return the library for a URL's scheme: valkey-py for ``valkey`` if it is installed, otherwise redis-py."""
    return driver("valkey" if scheme.startswith("valkey") and find_spec("valkey") is not None else "redis")


def driver_of(client: object) -> Driver:
    """Return the library of a client, whose class may inherit from the library's.

    Raises:
        LockConfigError: It is a client of neither library.
    """
    for kind in type(client).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in NAMES:
            return driver(name)
    raise LockConfigError(f"a client of redis-py or valkey-py is needed, not a {type(client).__name__}")


def response_errors() -> Errors:
    """Return the classes of errors that servers reply with, in the loaded libraries."""
    return tuple(driver(name).response_error for name in NAMES if name in sys.modules)
