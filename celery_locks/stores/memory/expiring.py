"""A dictionary whose values expire."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Protocol, TypeVar


class HasDeadline(Protocol):
    """A value that lives until a moment of the store's clock."""

    @property
    def deadline(self) -> float: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=HasDeadline)

#: How many outdated entries the heap may have, in addition to one for each value.
_SPARE_ENTRIES = 64


class Expiring(dict[K, V]):
    """A dictionary that finds the values whose deadline has passed without a search.

    The deadline of a value may become later at any time. For an earlier one, add the value again.

    The heap has at least one entry for each value, at its deadline or earlier. An entry may be outdated: the value
    decides. So an exception between two steps, such as a signal handler's, does no harm.
    """

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[float, Any]] = []

    def add(self, key: K, value: V) -> None:
        """Add a value, or replace the one with this key."""
        heappush(self._heap, (value.deadline, key))
        self[key] = value
        if len(self._heap) > 2 * len(self) + _SPARE_ENTRIES:
            heap = [(each.deadline, key) for key, each in self.items()]
            heapify(heap)
            self._heap = heap

    def first_deadline(self) -> float | None:
        """Return the earliest deadline, ``None`` when there are no values."""
        heap = self._heap
        while heap:
            deadline, key = heap[0]
            value = self.get(key)
            if value is None:
                heappop(heap)
            elif value.deadline > deadline:
                heapreplace(heap, (value.deadline, key))
            else:
                return value.deadline
        return None

    def may_have_expired(self, now: float) -> bool:
        """Return whether the deadline of a value may have passed."""
        return bool(self._heap) and self._heap[0][0] <= now

    def pop_expired(self, now: float) -> Iterator[tuple[K, V]]:
        """Remove the values whose deadline has passed, and return them with their keys."""
        while self.may_have_expired(now):
            deadline = self.first_deadline()
            if deadline is not None and deadline <= now:
                key = self._heap[0][1]
                yield key, self.pop(key)

    def expired(self, now: float, count: int) -> list[K]:
        """Return the keys of values whose deadline has passed, the earliest first, and leave them in place.

        Args:
            now: The moment.
            count: How many keys at most.
        """
        self.first_deadline()  # drops outdated entries
        found: dict[K, None] = {}
        heap, frontier = self._heap, [(entry, 0) for entry in self._heap[:1]]
        while frontier and len(found) < count:  # walks down the heap in order, as far as deadlines have passed
            (deadline, key), index = heappop(frontier)
            if deadline > now:
                break
            value = self.get(key)
            if value is not None and value.deadline <= now:
                found[key] = None
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heappush(frontier, (heap[child], child))
        return list(found)
