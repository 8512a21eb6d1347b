"""``memory://``: leases in this process, for tests and for programs of one process."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from heapq import nsmallest
from itertools import islice

from celery_locks._runtime.clock import Clock, system_clock
from celery_locks._runtime.tokens import process_number, process_of
from celery_locks.errors import LossReason
from celery_locks.stores.base import Store
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
from celery_locks.stores.loss_feed import LocalFeed, LossFeed
from celery_locks.stores.memory.lock import MemoryLock, Taken
from celery_locks.stores.memory.locks import MemoryLocks, StoredValue
from celery_locks.stores.memory.tickets import MemoryTable
from celery_locks.stores.parking import Dispatch, Dropped, Full, Out, Parked, Parking, RunEndName, Ticket
from celery_locks.stores.tickets import Tickets
from celery_locks.stores.types import (
    MOST_TAKEN,
    TAKEN_KNOWN_SECONDS,
    TICKET,
    Claim,
    Granted,
    Holder,
    Refused,
    Renewal,
    Value,
)


class MemoryStore(Store, Parking):
    """Leases in a dictionary.

    Args:
        clock: The clock by which leases end. Tests pass one that they can move.
    """

    wakes = True
    waits_for = 1_000
    values = True
    notices = True
    lists = True
    shared = False
    machines = False

    def __init__(self, clock: Clock = system_clock) -> None:
        self._locks = MemoryLocks(clock)
        #: Notices for this process, by its number, which a fork changes, and by the prefix of names.
        self._feeds: dict[tuple[str, str], LocalFeed] = {}

    # --- Leases ---

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        with self._locks.at(claim.name) as lock:
            now, line = self._locks.now(), lock.line
            mine = lock.leases.get(claim.token)
            if mine is not None:
                mine.deadline = max(mine.deadline, now + claim.ttl)
                return Granted(mine.fencing_token)
            if (claim.adopts or claim.replaces) and lock.was_replaced(claim.adopts, claim.token):
                return lock.refused(claim.token, now)._replace(replaced=True)
            adopted = lock.leases.get(claim.adopts)
            if adopted is not None and _fits_instead(lock, claim, adopted.permits):
                granted = self._locks.grant(lock, claim)  # first: whatever interrupts this, one of the two holds
                self._locks.end_lease(lock, claim.adopts)
                if line.leave(claim.token) or claim.permits < adopted.permits:
                    self._wake_next(lock)
                return granted
            if claim.replaces and claim.permits <= claim.limit:
                while lock.used() + claim.permits > claim.limit:
                    self._take_away(lock, next(iter(lock.leases)), "replaced")
            free = claim.limit - lock.used()
            if free >= claim.permits and (claim.replaces or line.first() in (None, claim.token)):
                line.leave(claim.token)
                granted = self._locks.grant(lock, claim)
                if free > claim.permits:
                    self._wake_next(lock)
                return granted
            full = claim.token not in line and 0 < claim.max_waiters <= len(line)
            if line_up is not None and not full:
                line.enter(claim.token, self._locks.next_number(), now + line_up)
            return lock.refused(claim.token, now)._replace(full=full and line_up is not None)

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        return [self._renew(renewal) for renewal in renewals]

    def _renew(self, renewal: Renewal) -> LossReason | None:
        with self._locks.mutex:
            known = self._locks.by_name.get(renewal.name)
            expired = known is not None and renewal.token in known.leases  # unless it is still there below
            with self._locks.at(renewal.name) as lock:
                lease = lock.leases.get(renewal.token)
                if lease is not None:
                    lease.deadline = max(lease.deadline, self._locks.now() + renewal.ttl)
                    return None
                if renewal.token in lock.taken:
                    return lock.taken[renewal.token].reason
                return "expired" if expired else "stolen" if lock.leases else "deleted"

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        with self._locks.at(name) as lock:
            released = self._end_lease(lock, token, "again", value)
            self._wake_next(lock)
            return released

    def shrink(self, name: str, token: str, permits: int) -> bool:
        with self._locks.at(name) as lock:
            lease = lock.leases.get(token)
            if lease is not None and lease.permits > permits:
                lock.shrink_lease(lease, permits)
                self._wake_next(lock)
            return lease is not None

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        with self._locks.at(name) as lock:
            holders = lock.holders(self._locks.now(), token)
            for number, each in enumerate([token] if token in lock.leases else [] if token else list(lock.leases)):
                self._take_away(lock, each, "force_released" if number < MOST_TAKEN else None)
            self._wake_next(lock)
            return holders

    def holders(self, name: str) -> tuple[Holder, ...]:
        with self._locks.at(name) as lock:
            return lock.holders(self._locks.now())

    def held(self, name: str) -> int:
        with self._locks.at(name) as lock:
            return lock.used()

    def _take_away(self, lock: MemoryLock, token: str, reason: LossReason | None) -> None:
        """End a lease by force, and notify its process; without a reason, do so silently."""
        if reason is not None:  # known first: whatever interrupts this, the lease is not lost without a reason
            lock.taken.add(token, Taken(reason, lock.leases[token].deadline + TAKEN_KNOWN_SECONDS))
        self._locks.end_lease(lock, token)
        if reason is not None and process_of(token) == process_number():
            self._feed(lock.name).put(token)

    def _end_lease(self, lock: MemoryLock, token: str, end: RunEndName, value: Value | None) -> bool:
        """Release a lease, keep its holder's value, and settle the ticket that ran under it."""
        if lock.runs:
            self._tickets(lock).end_run(token, end)
        held = self._locks.end_lease(lock, token) is not None
        if held and value is not None:
            self._keep(lock.name, value.text, value.keep)
        return held

    def loss_feed(self, name: str, process: str) -> LossFeed:
        return self._feed(name)

    def _feed(self, name: str) -> LocalFeed:
        place = process_number(), name.partition("{")[0]
        return self._feeds.get(place) or self._feeds.setdefault(place, LocalFeed())

    # --- The line ---

    def leave(self, name: str, token: str) -> None:
        with self._locks.at(name) as lock:
            if lock.line.leave(token):
                self._wake_next(lock)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        locks = self._locks
        with locks.mutex:
            woken = threading.Condition(locks.mutex)  # of its own: a wake-up disturbs no other waiter
            locks.waits |= dict.fromkeys((token for _, token in places), woken)
            try:
                tokens = woken.wait_for(lambda: [token for name, token in places if self._may_go(name, token)], timeout)
            finally:
                for _, token in places:
                    if locks.waits.get(token) is woken:
                        del locks.waits[token]
            for name, token in places:
                if token in tokens and (lock := locks.by_name.get(name)):
                    lock.line.called.discard(token)
            return tokens

    def _may_go(self, name: str, token: str) -> bool:
        lock = self._locks.by_name.get(name)
        # A free lock stays known for its tickets and for leases that were taken by force.
        return lock is None or token in lock.line.called or not (lock.leases or len(lock.line))

    def _wake_next(self, lock: MemoryLock) -> None:
        """Wake the first in line: a waiter, or the sweeper that dispatches a ticket."""
        first = lock.line.first()
        if first is not None and first.startswith(TICKET):
            self._tickets(lock).look_at_first()
        else:
            self._locks.wake_first_waiter(lock)

    # --- Values ---

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        with self._locks.at(name) as lock:
            holds = token in lock.leases
            if holds:
                self._keep(name, text, keep)
            return holds

    def value(self, name: str) -> str | None:
        with self._locks.mutex:
            value = self._locks.values.get(name)
            return None if value is None or value.deadline <= self._locks.now() else value.text

    def delete(self, name: str) -> bool:
        with self._locks.mutex:
            exists = self.value(name) is not None
            self._locks.values.pop(name, None)
            return exists

    def _keep(self, name: str, text: str, keep: float) -> None:
        now, values = self._locks.now(), self._locks.values
        values.add(name, StoredValue(text, now + keep))
        for _ in values.pop_expired(now):
            pass

    # --- Lists ---

    def info(self, name: str) -> LockInfo:
        with self._locks.at(name) as lock:
            line = tuple(_waiter(lock, token) for token in islice(lock.line, MOST_IN_LINE))
            return LockInfo(name, lock.holders(self._locks.now()), lock.used(), len(lock.line), line)

    def page(self, names: NameRange) -> Page:
        """Return a page. It looks at the names of all locks."""
        count = names.count + MOST_PASSED_OVER
        with self._locks.mutex:
            in_range = (name for name in self._locks.by_name if name.startswith(names.start) and name > names.after)
            first, items = nsmallest(count, in_range), list[LockInfo]()
            for name in first:
                if len(items) == names.count:
                    return Page(tuple(items), items[-1].name)
                info = self.info(name)
                if info.holders or info.waiting:
                    items.append(replace(info, holders=info.holders[:MOST_LISTED], line=()))
            return Page(tuple(items), first[-1] if len(first) == count else None)

    def stats(self, prefix: str, near: float) -> Stats:
        """Return the figures. It looks at all locks."""
        with self._locks.mutex:
            now, locks = self._locks.now(), list[MemoryLock]()
            for name in [name for name in self._locks.by_name if name.startswith(f"{prefix}:{{")]:
                with self._locks.at(name) as lock:
                    if lock.leases or len(lock.line):
                        locks.append(lock)
            leases = [(lease, lock.name) for lock in locks for lease in lock.leases.values()]
            since, oldest = min(((lease.since, name) for lease, name in leases), default=(now, None))
            return Stats(
                locks=len(locks),
                holders=len(leases),
                near_expiry=sum(lease.deadline < now + near for lease, _ in leases),
                waiting=sum(len(lock.line) for lock in locks),
                oldest_name=oldest,
                oldest_held_for=now - since,
            )

    def ping(self) -> None:
        pass

    # --- Tickets ---

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        with self._tickets_at(claim.name) as tickets:
            return tickets.enter(claim, ticket)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        with self._tickets_at(claim.name) as tickets:
            return tickets.park(claim, ticket)

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        with self._locks.at(name) as lock:
            released = self._end_lease(lock, token, end, value)
            dispatches = self._tickets(lock).dispatch(broker)
            self._locks.wake_first_waiter(lock)
            return released, dispatches

    def published(self, dispatch: Dispatch, within: float) -> None:
        with self._tickets_at(dispatch.name) as tickets:
            tickets.published(dispatch.id, within)

    def finish(self, name: str, ticket_id: str, token: str = "", *, running: bool = True) -> None:
        with self._tickets_at(name) as tickets:
            tickets.finish(ticket_id, token, running)

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        with self._locks.mutex:
            dispatches: list[Dispatch] = []
            for name in self._locks.due_locks(prefix, ("", broker), most):
                with self._locks.at(name) as lock:
                    dispatches += self._tickets(lock).sweep(broker)
                    self._locks.wake_first_waiter(lock)
            return tuple(dispatches)

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        give_up = system_clock.now() + timeout
        with self._locks.mutex:
            while (left := give_up - system_clock.now()) > 0:
                due = self._locks.next_due(prefix, ("", broker))
                due_in = left if due is None else due - self._locks.now()
                if due_in <= 0:
                    return
                self._locks.tickets_changed.wait(max(0.001, min(left, due_in)))

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        with self._locks.mutex:
            for name, ticket_id in self._locks.parked_tickets_of(prefix, task_id):
                with self._tickets_at(name) as tickets:
                    dispatches = tickets.withdraw(ticket_id, broker)
                if dispatches:
                    return dispatches
            name, token = self._locks.pop_lease_of_task(prefix, task_id)
            return self.end_run(name, token, "again", broker=broker)[1] if name else ()

    def waiting(self, name: str) -> int:
        with self._locks.at(name) as lock:
            return len(lock.line)

    def _tickets(self, lock: MemoryLock) -> Tickets:
        return Tickets(MemoryTable(self._locks, lock))

    @contextmanager
    def _tickets_at(self, name: str) -> Iterator[Tickets]:
        with self._locks.at(name) as lock:
            yield self._tickets(lock)
            self._locks.wake_first_waiter(lock)


def _fits_instead(lock: MemoryLock, claim: Claim, permits: int) -> bool:
    """Return whether a claim's permits fit in the place of these: then no more are held than before, or than may be."""
    return claim.permits <= permits or lock.used() - permits + claim.permits <= claim.limit


def _waiter(lock: MemoryLock, token: str) -> Waiter:
    ticket = lock.tickets.get(token.removeprefix(TICKET)) if token.startswith(TICKET) else None
    return Waiter(token=token) if ticket is None else Waiter(ticket.owner, ticket.task_id, token)


_named: dict[str, MemoryStore] = {}


def open_memory(url: str) -> MemoryStore:
    """Return the store of ``memory://`` or ``memory://name``: the same URL is the same store within a process."""
    return _named.setdefault(url, MemoryStore())
