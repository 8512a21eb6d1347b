"""A transaction in which the rules of leases and tickets run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

#: The longest duration, in seconds. As microseconds it still fits into 64 bits.
LONGEST_SECONDS = 1e12
#: The server's clock counts as set back if it is behind a past moment by more than these microseconds.
SET_BACK = 1_000_000
#: The SQLSTATE with which the functions in PostgreSQL report that the clock was set back.
SET_BACK_CODE = "LK001"
#: `forget_at` rounds a moment to this many bits of microseconds, some 72 minutes. So it seldom changes, and PostgreSQL
#: updates the row without its indexes.
COARSE_BITS = 32
#: Positions in line are counted up to this one.
MOST_BEFORE = 1_000


def microseconds(seconds: float) -> int:
    return int(min(seconds, LONGEST_SECONDS) * 1_000_000)


def forget_at(moment: int) -> int:
    """Return when a lock's row that is needed until a moment may be deleted: 72 to 144 minutes later."""
    return ((moment >> COARSE_BITS) + 2) << COARSE_BITS


class Answer(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Session(ABC):
    """One transaction at one moment, with exclusive access to the lock that it is about.

    Attributes:
        now: The moment, in microseconds of the store's clock.
        released: The owner token of the lease that ended last, if known.
        repeated: Whether an earlier try may have been carried out, and only its reply was lost.
        has_locks: Whether each lock has a row, which may contain its only holder.
    """

    now: int
    has_locks = False
    released: str = ""
    repeated: bool = False

    @abstractmethod
    def execute(self, query: str, values: Sequence[Any] = ()) -> Answer:
        """Run a statement with ``?`` for each value, on tables whose names begin with ``celery_locks_``."""

    @abstractmethod
    def put(self, table: str, key: Sequence[str], row: Mapping[str, Any], keep: Sequence[str] = ()) -> None:
        """Insert a row, or update the row with the same key.

        Args:
            table: The table's name without ``celery_locks_``.
            key: The columns of the primary key.
            row: All columns with their values.
            keep: The columns that an update leaves as they are.
        """

    def leases_of(self, name: str) -> tuple[str, tuple[Any, ...]]:
        """Return the part of a query after ``FROM`` that selects a lock's leases, and its values."""
        return "celery_locks_holder WHERE name = ?", (name,)

    @abstractmethod
    def next_fencing_token(self) -> int:
        """Return a fencing token greater than all before for this lock, and store it by the end of the transaction."""

    def need_until(self, moment: int) -> None:
        """Keep the lock's row until a moment at least, in a store that deletes idle rows."""

    def note_due(self, broker: str, moment: int) -> None:
        """Record that a ticket of a broker is due at a moment, for a store that wakes sweepers."""

    def notify_lost(self, tokens: Sequence[str]) -> None:
        """Notify the processes whose leases were taken by force, if the database can."""

    def after(self, seconds: float) -> int:
        """Return the moment some seconds from now."""
        return self.now + microseconds(seconds)
