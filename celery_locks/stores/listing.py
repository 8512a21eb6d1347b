"""What a store lists: locks that are held or waited for, pages of them, and figures over all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from celery_locks._validation import DEFAULT_STORE
from celery_locks.keys.names import cursor_of, key_and_part
from celery_locks.stores.types import Holder

#: How many holders of each lock a page names at most.
MOST_LISTED = 20
#: How many of those in line `Store.info` names at most.
MOST_IN_LINE = 100
#: How many names more than requested `Store.page` reads at most: the locks of some have expired.
MOST_PASSED_OVER = 1_000
#: How many lines `Store.stats` counts at most, and how many leases, in a store that has no counters.
MOST_COUNTED = 1_000


@dataclass(frozen=True)
class Waiter:
    """A place in a lock's line. Only a parked task has an owner and a task id; for other waiters both are empty.

    Attributes:
        owner: The holder's name that the task will have.
        task_id: The task's id.
        token: The owner token. A process that knows it can take this place in line: never show it.
    """

    owner: str = ""
    task_id: str = ""
    token: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class LockInfo:
    """A key, or a part of one, with its holders and its line.

    Attributes:
        name: The full name in the store. The prefix, the key and the part are read from it.
        holders: The holders, earliest acquisition first: at most 20 on a page, 100 by `Locks.info`.
        permits: How many permits are held, by all holders.
        waiting: How many stand in line: waiters and parked tasks.
        line: Those in line, in order: at most 100, and only by `Locks.info`.
        store: The name of the store among those of an app. Stores leave it at its default.
    """

    name: str
    holders: tuple[Holder, ...]
    permits: int
    waiting: int
    line: tuple[Waiter, ...] = ()
    store: str = DEFAULT_STORE

    @property
    def key(self) -> str:
        """The locked key."""
        return key_and_part(self.name)[0]

    @property
    def part(self) -> str:
        """The part of the key that is locked independently of the key itself; empty for the key.

        ``"call"`` is held from the call until the run starts (``until_and_while_executing``). ``"run:…"`` is held by a
        run, against a second copy of its message (``until_executing``, ``until_expired``).
        """
        return key_and_part(self.name)[1]

    @property
    def limit(self) -> int:
        """How many permits the lock had for its latest holder. Each acquisition brings a limit of its own."""
        return self.holders[-1].limit if self.holders else 1

    @property
    def names_all(self) -> bool:
        """Whether all holders are named."""
        return sum(holder.permits for holder in self.holders) >= self.permits


@dataclass(frozen=True)
class NameRange:
    """A range of names, in the order of their UTF-8 text.

    Attributes:
        prefix: The prefix of the store's index: all names begin with it and ``:``.
        start: The text that all names of the range begin with.
        after: Only names greater than this one; empty for all.
        count: How many locks are requested.
    """

    prefix: str
    start: str
    after: str
    count: int


@dataclass(frozen=True)
class Page:
    """Some of the locks that are held or waited for, in the order of their names.

    Attributes:
        items: The locks. There may be fewer than requested, even none, although more follow.
        last: The full name after which more locks follow, ``None`` on the last page.
    """

    items: tuple[LockInfo, ...]
    last: str | None

    @property
    def next(self) -> str | None:
        """The value of ``after`` for the next page, ``None`` on the last page: the last key, with its part."""
        return None if self.last is None else cursor_of(*key_and_part(self.last))


@dataclass(frozen=True)
class Stats:
    """Figures over all locks of a prefix.

    Attributes:
        locks: Keys that are held or waited for.
        holders: Leases: a semaphore may have several.
        near_expiry: Leases that end soon if they are not renewed.
        waiting: How many stand in line, for all keys together.
        oldest_name: The full name of the lock that is held for longest without a break, ``None`` when none is held.
        oldest_held_for: For how many seconds it is held.
        complete: Whether all locks were counted. If not, the figures are lower bounds.
    """

    locks: int
    holders: int
    near_expiry: int
    waiting: int
    oldest_name: str | None = None
    oldest_held_for: float = 0.0
    complete: bool = True

    @property
    def oldest(self) -> str | None:
        """The key that is held for longest without a break, ``None`` when none is held."""
        return None if self.oldest_name is None else key_and_part(self.oldest_name)[0]

    @property
    def oldest_part(self) -> str:
        """The part of that key; see `LockInfo.part`."""
        return "" if self.oldest_name is None else key_and_part(self.oldest_name)[1]

    @classmethod
    def total(cls, parts: Iterable[Stats]) -> Stats:
        """Return the sum of the figures of several servers or stores; at least one."""
        parts = list(parts)
        oldest = max(parts, key=lambda part: part.oldest_held_for if part.oldest_name is not None else -1.0)
        return cls(
            locks=sum(part.locks for part in parts),
            holders=sum(part.holders for part in parts),
            near_expiry=sum(part.near_expiry for part in parts),
            waiting=sum(part.waiting for part in parts),
            oldest_name=oldest.oldest_name,
            oldest_held_for=oldest.oldest_held_for,
            complete=all(part.complete for part in parts),
        )


def merge_pages(pages: Sequence[Page], count: int) -> Page:
    """Return the first page of the locks of several servers or stores.

    Beyond the end of its own page, the locks of a server are unknown. So the merged page ends where the first of the
    pages ends that are followed by others.

    Args:
        pages: The pages of all servers, for the same range.
        count: How many locks are requested. There are more of them where two stores have a lock of the same name.
    """
    items = sorted((item for page in pages for item in page.items), key=lambda item: item.name)
    ends = [page.last for page in pages if page.last is not None]
    if len(items) > count:
        ends.append(items[count - 1].name)
    end = min(ends, default=None)
    if end is None:
        return Page(tuple(items), None)
    merged = tuple(item for item in items if item.name <= end)
    return Page(merged, end if len(merged) < len(items) or any(page.last is not None for page in pages) else None)
