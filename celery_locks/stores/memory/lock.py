"""One lock in memory: its leases, its line and its tickets."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import inf

from celery_locks.errors import LossReason
from celery_locks.stores.memory.expiring import Expiring
from celery_locks.stores.tickets import Record
from celery_locks.stores.types import MOST_HOLDERS, TICKET, Claim, Holder, Refused


@dataclass(slots=True)
class MemoryLease:
    """A lease."""

    claim: Claim
    permits: int
    fencing_token: int
    since: float
    deadline: float


@dataclass(slots=True)
class Place:
    """A place in line. Places are in the order of their numbers."""

    number: int
    deadline: float


@dataclass(slots=True)
class Taken:
    """The reason for which a lease was taken by force, known until a deadline."""

    reason: LossReason
    deadline: float


@dataclass(slots=True)
class Due:
    """The moment at which a ticket is due."""

    deadline: float


class DueTickets(Expiring[str, Due]):
    """The tickets of a lock and a broker that are due at some time, by their ids."""

    __slots__ = ()

    @property
    def deadline(self) -> float:
        """The moment at which the first of them is due."""
        deadline = self.first_deadline()
        return inf if deadline is None else deadline


class Line:
    """The waiters and parked tickets of a lock, in order.

    No step looks at the whole line: sorted lists are searched by halves, and deadlines are in a heap. The sorted lists
    may have entries without a place, after an exception between two steps. They are removed when they come first.
    """

    __slots__ = ("_order", "_places", "_tickets", "called")

    def __init__(self) -> None:
        self._places = Expiring[str, Place]()
        self._order: list[tuple[int, str]] = []
        self._tickets: list[tuple[int, str]] = []
        #: The tokens of waiters that were woken, and have not noticed yet.
        self.called: set[str] = set()

    def __contains__(self, token: str) -> bool:
        return token in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return (entry[1] for entry in self._order if self._is_valid(entry))

    def first(self) -> str | None:
        """Return the first token, ``None`` when the line is empty."""
        return self._first_of(self._order)

    def first_ticket(self) -> str | None:
        """Return the token of the first ticket."""
        return self._first_of(self._tickets)

    def place_of(self, token: str) -> Place:
        """Return the place of a token that stands in line."""
        return self._places[token]

    def first_deadline(self) -> float | None:
        """Return when the first place expires."""
        return self._places.first_deadline()

    def position_of(self, token: str) -> int | None:
        """Return how many stand before a token, ``None`` when it has no place."""
        place = self._places.get(token)
        return None if place is None else bisect_left(self._order, (place.number, token))

    def deadline_at(self, position: int) -> float:
        """Return when the place at a position expires."""
        place = self._places.get(self._order[position][1])
        return -inf if place is None else place.deadline

    def enter(self, token: str, number: int, deadline: float) -> None:
        """Give a token a place, or keep the one that it has for longer."""
        place = self._places.get(token)
        if place is not None:
            place.deadline = max(deadline, place.deadline)
            return
        insort(self._order, (number, token))
        if token.startswith(TICKET):
            insort(self._tickets, (number, token))
        self._places.add(token, Place(number, deadline))

    def leave(self, token: str) -> bool:
        """Return whether the token had a place, which it has no longer."""
        place = self._places.pop(token, None)
        if place is not None:
            self._remove(token, place)
        return place is not None

    def expire(self, now: float) -> None:
        """Remove the places whose deadline has passed."""
        for token, place in self._places.pop_expired(now):
            self._remove(token, place)

    def _remove(self, token: str, place: Place) -> None:
        self.called.discard(token)
        entry = place.number, token
        for entries in (self._order, self._tickets) if token.startswith(TICKET) else (self._order,):
            index = bisect_left(entries, entry)
            if entries[index : index + 1] == [entry]:
                del entries[index]

    def _first_of(self, entries: list[tuple[int, str]]) -> str | None:
        while entries and not self._is_valid(entries[0]):
            del entries[0]
        return entries[0][1] if entries else None

    def _is_valid(self, entry: tuple[int, str]) -> bool:
        place = self._places.get(entry[1])
        return place is not None and place.number == entry[0]


class MemoryLock:
    """One lock.

    Attributes:
        name: Its full name.
        leases: By their owner tokens, in the order of their acquisition.
        line: The waiters and parked tickets.
        taken: The reasons for which leases were taken by force, by their owner tokens.
        tickets: By their ids.
        runs: The ids of running tickets, by the owner tokens of their runs.
        due_tickets: By their brokers.
    """

    __slots__ = ("_used", "due_tickets", "leases", "line", "name", "runs", "taken", "tickets")

    def __init__(self, name: str) -> None:
        self.name = name
        self.leases = Expiring[str, MemoryLease]()
        self.line = Line()
        self.taken = Expiring[str, Taken]()
        self.tickets = Expiring[str, Record]()
        self.runs: dict[str, str] = {}
        self.due_tickets: dict[str, DueTickets] = {}
        #: How many permits are held; ``None`` while that changes, and so after an exception in between.
        self._used: int | None = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be remembered of it."""
        return not (self.leases or len(self.line) or self.taken or self.tickets)

    def used(self) -> int:
        """Return how many permits are held."""
        if self._used is None:
            self._used = sum(lease.permits for lease in self.leases.values())
        return self._used

    def add_lease(self, token: str, lease: MemoryLease) -> None:
        """Add a lease."""
        used, self._used = self.used(), None
        self.leases.add(token, lease)
        self._used = used + lease.permits

    def pop_lease(self, token: str) -> MemoryLease | None:
        """Remove a lease, and return it if there was one."""
        used, self._used = self.used(), None
        lease = self.leases.pop(token, None)
        self._used = used if lease is None else used - lease.permits
        return lease

    def shrink_lease(self, lease: MemoryLease, permits: int) -> None:
        """Keep only this many permits of a lease."""
        self._used = None
        lease.permits = permits

    def expired_leases(self, now: float) -> Iterator[MemoryLease]:
        """Remove the leases whose deadline has passed, and return them."""
        if self.leases.may_have_expired(now):
            self._used = None
            yield from (lease for _, lease in self.leases.pop_expired(now))

    def was_replaced(self, *tokens: str) -> bool:
        """Return whether a newcomer took the lease of one of these tokens."""
        return any(token in self.taken and self.taken[token].reason == "replaced" for token in tokens)

    def holders(self, now: float, only: str = "") -> tuple[Holder, ...]:
        """Return the holders, earliest acquisition first, at most `MOST_HOLDERS`; or only the one with a token."""
        if only:
            return (_holder(only, self.leases[only], now),) if only in self.leases else ()
        return tuple(_holder(token, lease, now) for token, lease in islice(self.leases.items(), MOST_HOLDERS))

    def refused(self, token: str, now: float) -> Refused:
        """Return the refusal of a token."""
        holders, position = self.holders(now), self.line.position_of(token)
        if position:  # only the end of the place before it could change anything without a wake-up
            retry_at: float | None = self.line.deadline_at(position - 1)
        elif holders:
            retry_at = self.leases.first_deadline()
        else:  # more permits were requested than there are
            retry_at = self.line.first_deadline()
        return Refused(holders, 1.0 if retry_at is None else max(0.0, retry_at - now), position)


def _holder(token: str, lease: MemoryLease, now: float) -> Holder:
    claim, held_for, expires_in = lease.claim, now - lease.since, lease.deadline - now
    return Holder(claim.owner, lease.fencing_token, lease.permits, held_for, expires_in, token, claim.limit)
