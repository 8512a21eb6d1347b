"""One transaction, as the rules of leases and tickets see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

#: Seconds; a longer time is as good as forever, and this much still fits into 64 bits of microseconds.
FOREVER = 1e12
#: Microseconds by which the server's clock must be behind a moment that has passed to count as set back.
SET_BACK = 1_000_000
#: The bits of a moment in microseconds that `forget_at` leaves out, some 72 minutes: it changes so seldom, and on
#: PostgreSQL a row whose indexed columns stay as they are is written without its indexes.
COARSE_BITS = 32
#: How many places before one in line are counted at most.
MOST_BEFORE = 1_000


def microseconds(seconds: float) -> int:
    return int(min(seconds, FOREVER) * 1_000_000)


def forget_at(moment: int) -> int:
    """Return until when a lock's row is kept at least if it is needed until a moment: 72 minutes, and up to 72 more."""
    return ((moment >> COARSE_BITS) + 2) << COARSE_BITS


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
        released: The owner token whose lease ended last, as far as that is known.
        repeated: Whether an earlier try may have been carried out, and only its reply was lost.
        has_locks: Whether locks have rows of their own, in which a holder may be.
    """

    now: int
    has_locks = False
    released: str = ""
    repeated: bool = False

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

    def leases_of(self, name: str) -> tuple[str, tuple[Any, ...]]:
        """Return where a lock's leases are found: what follows ``FROM`` in a query, and its values."""
        return "celery_locks_holder WHERE name = ?", (name,)

    @abstractmethod
    def next_fencing_token(self) -> int:
        """Greater than all that were given for this lock; noted before the transaction ends."""

    def need_until(self, moment: int) -> None:
        """Keep what is known of the lock until a moment at least, for a store that forgets idle locks."""

    def note_due(self, broker: str, moment: int) -> None:
        """Note that a ticket of a broker is due at a moment, for a store that wakes sweepers."""

    def notify_lost(self, tokens: Sequence[str]) -> None:
        """Notify the processes of leases that were taken by force, where the database does that."""

    def after(self, seconds: float) -> int:
        """The moment so many seconds from now."""
        return self.now + microseconds(seconds)
