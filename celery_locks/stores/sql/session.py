"""One transaction, as the rules of leases and tickets see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

#: Seconds; a longer time is as good as forever, and this much still fits into 64 bits of microseconds.
FOREVER = 1e12


def microseconds(seconds: float) -> int:
    return int(min(seconds, FOREVER) * 1_000_000)


class Answer(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Session(ABC):
    """One transaction at one moment, in which nobody else changes the lock that it is about.

    Attributes:
        now: The moment, in microseconds of the store's clock.
    """

    now: int

    @abstractmethod
    def execute(self, query: str, values: Sequence[Any] = ()) -> Answer:
        """Runs a statement with ``?`` for each value, on tables whose names begin with ``celery_locks_``."""

    @abstractmethod
    def put(self, table: str, key: Sequence[str], row: Mapping[str, Any], keep: Sequence[str] = ()) -> None:
        """Writes a row; where there is one with this key it takes its place, but for the columns to keep.

        Args:
            table: Its name without ``celery_locks_``.
            key: The columns of its primary key.
            row: All its columns.
            keep: Those that stay as they were.
        """

    @abstractmethod
    def next_fencing_token(self) -> int:
        """Greater than all that were given for this lock; noted before the transaction ends."""

    def note_due(self, broker: str, moment: int) -> None:
        """Note that a ticket of a broker is due at a moment, for a store that wakes sweepers."""

    def notify_lost(self, tokens: Sequence[str]) -> None:
        """Notify the processes of leases that were taken by force, where the database does that."""

    def after(self, seconds: float) -> int:
        """The moment so many seconds from now."""
        return self.now + microseconds(seconds)
