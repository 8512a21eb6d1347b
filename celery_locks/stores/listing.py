"""What a store tells of all its locks: a page of those that are held, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from celery_locks.stores.types import Holder

#: How many holders of each lock a page names at most.
MOST_LISTED = 20
#: How many of those in line `Store.info` names at most.
MOST_IN_LINE = 100
#: How many locks more than asked for one page looks at, at most: those whose time is over are passed over.
MOST_PASSED_OVER = 1_000
#: How many lines, and in a store without figures of its own how many leases, `Store.stats` counts at most.
MOST_COUNTED = 1_000


@dataclass(frozen=True)
class Waiter:
    """Who stands in line. A parked task is named; a waiter that is to be woken gives no name, and both are empty.

    Attributes:
        owner: The holder's name that it is to have.
        task_id: The task's id.
        token: Its owner token. With it a process can take the place in line: never show it.
    """

    owner: str = ""
    task_id: str = ""
    token: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class State:
    """One lock, as the store sees it.

    Attributes:
        name: Its full name.
        holders: Who holds it, earliest acquisition first; not all of them where there are many.
        permits: How many permits are held, by all holders.
        waiting: How many stand in line: waiters and parked tickets.
        line: Who stands in line, in order, by `Store.info` alone: at most `MOST_IN_LINE`.
    """

    name: str
    holders: tuple[Holder, ...]
    permits: int
    waiting: int
    line: tuple[Waiter, ...] = ()


@dataclass(frozen=True)
class Names:
    """A range of names, in the order of their UTF-8 text.

    Attributes:
        prefix: Of the index: all names begin with it and ``:``.
        start: What all names of the range begin with.
        after: Only names greater than this one; empty for all.
        count: How many.
    """

    prefix: str
    start: str
    after: str
    count: int


@dataclass(frozen=True)
class Figures:
    """All locks of a prefix, counted.

    Attributes:
        locks: Locks that are held or waited for.
        holders: Leases.
        near_expiry: Leases whose deadline is near.
        waiting: How many stand in line.
        oldest: The full name of the lock that is held for longest, ``None`` when none is held.
        oldest_held_for: For how many seconds it is held.
        complete: Whether that is all. Else there are more than were counted: the figures are lower bounds.
    """

    locks: int
    holders: int
    near_expiry: int
    waiting: int
    oldest: str | None = None
    oldest_held_for: float = 0.0
    complete: bool = True


def figures_together(parts: Sequence[Figures]) -> Figures:
    """The figures of a whole, of which these are all the parts; at least one."""
    oldest = max(parts, key=lambda part: part.oldest_held_for if part.oldest is not None else -1.0)
    return Figures(
        locks=sum(part.locks for part in parts),
        holders=sum(part.holders for part in parts),
        near_expiry=sum(part.near_expiry for part in parts),
        waiting=sum(part.waiting for part in parts),
        oldest=oldest.oldest,
        oldest_held_for=oldest.oldest_held_for,
        complete=all(part.complete for part in parts),
    )
