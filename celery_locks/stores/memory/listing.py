"""What is held in this process."""

from __future__ import annotations

from dataclasses import replace
from heapq import nsmallest
from itertools import islice

from celery_locks.stores.listing import (
    MOST_IN_LINE,
    MOST_LISTED,
    MOST_PASSED_OVER,
    LockInfo,
    NameRange,
    Page,
    Stats,
    Waiter,
)
from celery_locks.stores.memory.state import Lock, MemoryLocks
from celery_locks.stores.types import TICKET


class MemoryListing(MemoryLocks):
    """The part of `MemoryStore` that tells what is held. It looks at all locks: this store is for tests."""

    lists = True

    def info(self, name: str) -> LockInfo:
        with self._changed:
            lock = self.current(name)
            line = tuple(_waiter(lock, token) for token in islice(lock.line, MOST_IN_LINE))
            state = LockInfo(name, self.holders_of(lock, self._clock.now()), lock.used(), len(lock.line), line)
            self.forget(name)
            return state

    def page(self, names: NameRange) -> Page:
        with self._changed:
            wanted = (name for name in self._locks if name.startswith(names.start) and name > names.after)
            states: list[LockInfo] = []
            first = nsmallest(names.count + MOST_PASSED_OVER, wanted)
            for name in first:
                if len(states) == names.count:
                    return Page(tuple(states), states[-1].name)
                state = self.info(name)
                if state.holders or state.waiting:
                    states.append(replace(state, holders=state.holders[:MOST_LISTED], line=()))
            return Page(tuple(states), first[-1] if len(first) == names.count + MOST_PASSED_OVER else None)

    def stats(self, prefix: str, near: float) -> Stats:
        with self._changed:
            now, names = self._clock.now(), [name for name in self._locks if name.startswith(f"{prefix}:{{")]
            states = [state for name in names if (state := self.info(name)).holders or state.waiting]
            held = [(each.since, state.name) for state in states for each in self._locks[state.name].held.values()]
            since, oldest = min(held, default=(now, None))
            ends = [each.deadline for state in states for each in self._locks[state.name].held.values()]
            return Stats(
                len(states),
                len(held),
                sum(deadline < now + near for deadline in ends),
                sum(state.waiting for state in states),
                oldest,
                now - since,
            )


def _waiter(lock: Lock, token: str) -> Waiter:
    ticket = lock.tickets.get(token.removeprefix(TICKET)) if token.startswith(TICKET) else None
    return Waiter(token=token) if ticket is None else Waiter(ticket.owner, ticket.task_id, token)
