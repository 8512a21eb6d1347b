"""`ReadWriteLock`: many readers at once, or one writer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_locks._space import Space
from celery_locks._validation import Terms
from celery_locks.lock import Lock

if TYPE_CHECKING:
    from celery_locks.outcomes import OutcomeCallback

#: Permits of the semaphore behind: a reader takes one, a writer all of them. So many may read at once.
READERS = 1_000_000


class ReadWriteLock:
    """A key that many may read at once, and one alone may write.

    Readers and writers stand in one line, first come first served: readers that come after a writer wait for it, so no
    stream of readers starves a writer, and none of writers a reader.

    Who holds one of the two must not wait for the other: a reader that waits to write waits for itself.

    Attributes:
        key: What is locked.
        read: The lock of readers.
        write: The lock of the writer.

    Examples:
        >>> report = locks.read_write("report:7")
        >>> with report.read:
        ...     show()
        >>> with report.write:
        ...     change()
    """

    def __init__(
        self,
        space: Space,
        key: str,
        terms: Terms,
        owner: str | None = None,
        on_event: OutcomeCallback | None = None,
    ) -> None:
        self.key = key
        self.read = Lock(space, key, terms.for_permits(1, READERS), owner, on_event=on_event)
        self.write = Lock(space, key, terms.for_permits(READERS, READERS), owner, on_event=on_event)

    def __repr__(self) -> str:
        return f"<ReadWriteLock {self.key!r}>"
