"""The protocol of a connection, for the modules that `celery_locks.stores.sql.database` imports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class ConnectionProtocol(Protocol):
    """A connection, such as `celery_locks.stores.sql.database.Connection`."""

    dbapi: Any
    info: dict[str, Any]
    timeout: float

    @property
    def dialect(self) -> Any:
        """The SQL of the database."""

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Run a statement written as for `Session.execute`."""

    def run(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Run a statement in the driver's form."""
