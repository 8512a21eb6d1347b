"""What runs statements, as the modules see it that a connection is built on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Executing(Protocol):
    """A connection; see `celery_locks.stores.sql.database.Connection`."""

    dbapi: Any
    info: dict[str, Any]
    timeout: float

    @property
    def dialect(self) -> Any:
        """The database's own words."""

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Run a statement as `Session.execute` takes them."""

    def run(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Run a statement in the driver's form."""
