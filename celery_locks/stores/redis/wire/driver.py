"""The library that talks to the server: redis-py, or valkey-py, which is a fork of it. Here it is chosen."""

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
    """One of the libraries: those of its names that are used here. Its errors are no kin of the other one's."""

    def __init__(self, name: str) -> None:
        module, errors = import_module(name), import_module(f"{name}.exceptions")
        kind = name.capitalize()
        self.name = name
        self.client: Any = module.Redis
        self.cluster: Any = getattr(module, f"{kind}Cluster")
        self.pool: Any = module.ConnectionPool
        self.sentinel: Any = import_module(f"{name}.sentinel").Sentinel
        self.parse_url: Callable[[str], dict[str, Any]] = import_module(f"{name}.connection").parse_url
        self.connection: Any = module.Connection
        self._retry: Any = import_module(f"{name}.retry").Retry
        self._no_backoff: Any = import_module(f"{name}.backoff").NoBackoff
        #: All errors; those of a cluster are a family of their own.
        self.errors: Errors = (getattr(errors, f"{kind}Error"), getattr(errors, f"{kind}ClusterException"))
        #: The connection failed: what became of the command is not known.
        self.broken: Errors = (errors.ConnectionError, errors.TimeoutError)
        self.connection_error: type[Exception] = errors.ConnectionError
        self.timeout_error: type[Exception] = errors.TimeoutError
        #: The server answered with an error.
        self.response_error: type[Exception] = errors.ResponseError
        self.no_script: type[Exception] = errors.NoScriptError
        self.read_only: type[Exception] = errors.ReadOnlyError

    def no_retry(self) -> Any:
        """The stores retry by themselves, knowing which command it is and how long the lease still lives."""
        return self._retry(self._no_backoff(), 0)


@functools.cache
def driver(name: str) -> Driver:
    """A library by its name.

    Raises:
        ModuleNotFoundError: It is not installed.
        LockConfigError: There is none of this name.
    """
    if name not in NAMES:
        raise LockConfigError(f"a lock store has no client library {name}: write client=redis or client=valkey")
    return Driver(name)


def driver_for(scheme: str) -> Driver:
    """The library for addresses of a scheme: Valkey's own where it is installed, else redis-py, which knows both."""
    return driver("valkey" if scheme.startswith("valkey") and find_spec("valkey") is not None else "redis")


def driver_of(client: object) -> Driver:
    """The library that a client is of, or a class of its own that inherits from the library's.

    Raises:
        LockConfigError: It is of none.
    """
    for kind in type(client).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in NAMES:
            return driver(name)
    raise LockConfigError(f"a client of redis-py or valkey-py is needed, not a {type(client).__name__}")


def response_errors() -> Errors:
    """What a server's error is in each of the libraries that are loaded."""
    return tuple(driver(name).response_error for name in NAMES if name in sys.modules)
