"""Parking in Redis; see the scripts ``enter``, ``end_run`` and ``sweep``, and ``lua/parts/tickets.lua``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.parking import (
    Dispatch,
    Dropped,
    Full,
    Out,
    OutReason,
    Parked,
    Parking,
    RunEndName,
    Ticket,
)
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.commands import script_command
from celery_locks.stores.redis.replies import MICROSECONDS, parse_refusal
from celery_locks.stores.redis.script_store import ScriptStore, as_micros
from celery_locks.stores.redis.scripts import LONGEST_SLEEP
from celery_locks.stores.redis.wire.connections import as_text
from celery_locks.stores.redis.wire.protocol import arguments
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Value

T = TypeVar("T")


class RedisParking(ScriptStore, Parking):
    """The part of `RedisStore` that parks tasks."""

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        reply = self._claim(scripts.ENTER, claim, *_pack_ticket(ticket))
        if not isinstance(reply, Sequence):
            return Granted(int(reply))
        kind, rest = as_text(reply[0]), reply[1:]
        if kind == "granted":
            return Granted(int(rest[0]), has_ticket=True)
        if kind in ("parked", "refused"):
            return _parse_parked(claim.name, kind, rest)
        if kind == "dropped":
            return Dropped("done" if as_text(rest[0]) == "done" else "running")
        if kind == "full":
            return Full(int(rest[0]))
        return Out(cast(OutReason, as_text(rest[0])), parse_refusal(rest[1:]))

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        reply = self._claim(scripts.PARK, claim, *_pack_ticket(ticket))
        if not isinstance(reply, Sequence) or as_text(reply[0]) == "full":
            return None
        return _parse_parked(claim.name, as_text(reply[0]), reply[1:])

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        reply = self._release(scripts.END_RUN, name, token, 2, arguments(end, broker), value)
        if isinstance(reply, int):  # no ticket and no line
            return reply == 1, ()
        released, *rest = reply
        return released == 1, _parse_dispatches(name, rest)

    def published(self, dispatch: Dispatch, within: float) -> None:
        self._run(scripts.PUBLISHED, dispatch.name, "", dispatch.id, as_micros(within))

    def finish(self, name: str, ticket_id: str, token: str = "", *, running: bool = True) -> None:
        self._run(scripts.FINISH, name, "", ticket_id, token, int(running))

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        names = [as_text(name) for name in self._due(prefix, broker, most)]
        return self._each(lambda name: self._sweep(name, broker), names)

    def _sweep(self, name: str, broker: str) -> tuple[Dispatch, ...]:
        return _parse_dispatches(name, self._run(scripts.SWEEP, name, "", broker))

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        due_in = self._due(prefix, broker, 0)
        if due_in >= 0:
            timeout = min(timeout, due_in / MICROSECONDS)
        lists = [f"{prefix}:{record}" for record in of_broker("sweep", broker)]
        try:
            self._connections.first_filled(lists, min(timeout, LONGEST_SLEEP))
        except self._connections.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def _due(self, prefix: str, broker: str, most: int) -> Any:
        keys = [f"{prefix}:{record}" for record in of_broker("parked", broker)]
        return self._call(scripts.DUE, keys[0], script_command(scripts.DUE, keys, most))

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        places = self._single("MGET", *task_places(prefix, broker, task_id))
        found = [place for place in places if place is not None]
        return self._each(lambda place: self._withdraw(place, broker, task_id), found)

    def _withdraw(self, place: Any, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        """Withdraw the ticket or the lease of a task, as ``tickets.lua`` or the script ``take`` recorded it."""
        found = _parse_place(place if isinstance(place, bytes) else str(place).encode())
        if found is None:
            return ()
        kind, name, ticket_or_token = found[0], self._name(found[1]), found[2]
        if kind == b"ticket":
            reply = self._run(scripts.WITHDRAW, name, "", ticket_or_token, task_id, broker)
            return _parse_dispatches(name, reply)
        return self.end_run(name, ticket_or_token, "again", broker=broker)[1]

    def _each(self, step: Callable[[T], tuple[Dispatch, ...]], items: Sequence[T]) -> tuple[Dispatch, ...]:
        """Return the dispatches of a step for each item. An error is raised only if no other step has a dispatch."""
        dispatches: list[Dispatch] = []
        failed: StoreUnavailable | None = None
        for item in items:
            try:
                dispatches += step(item)
            except StoreUnavailable as error:  # noqa: PERF203
                failed = failed or error
        if failed is not None and not dispatches:
            raise failed
        return tuple(dispatches)

    def _name(self, key: str) -> str:
        """Return the full name of the lock that has a key."""
        return key

    def waiting(self, name: str) -> int:
        return int(self._run(scripts.WAITING, name, ""))


def of_broker(name: str, broker: str) -> list[str]:
    """Return the names of the records that a broker's sweeper reads: its own, and the one without a broker."""
    return [f"{name}:{broker}", name] if broker else [name]


def task_places(prefix: str, broker: str, task_id: str) -> list[str]:
    """Return the keys that may name the ticket or the lease of a task."""
    return [f"{prefix}:{place}" for place in of_broker(f"task:{task_id}", broker)]


def _parse_place(place: bytes) -> tuple[bytes, str, str] | None:
    """Parse the record of a task: its kind, a lock's key, and the ticket or token. None if another program wrote it."""
    try:
        kind, length, rest = place.split(b" ", 2)
        end = int(length)  # in bytes, since a name may contain any character
        found = kind, rest[:end].decode(), rest[end:].decode()
    except ValueError:
        return None
    return found if kind in (b"ticket", b"lease") and found[1] and found[2] else None


def _pack_ticket(ticket: Ticket) -> tuple[int, str]:
    """Return the number of a ticket's arguments for the script ``enter``, and the arguments."""
    wait = 0 if ticket.wait is None else max(1, as_micros(ticket.wait))
    terms = (ticket.id, ticket.message, ticket.task_id, wait, ticket.max_waiters or 0, MOST_HOLDERS)
    return 9, arguments(*terms, ticket.owner, ticket.broker, ticket.count if ticket.late else "")


def _parse_parked(name: str, kind: str, rest: Sequence[Any]) -> Parked:
    if kind == "refused":
        return Parked(parse_refusal(rest))
    end = 1 + 3 * int(rest[0])
    return Parked(parse_refusal(rest[end:]), _parse_dispatches(name, rest[1:end]))


def _parse_dispatches(name: str, reply: Sequence[Any]) -> tuple[Dispatch, ...]:
    """Parse dispatches: ticket, message and count of each."""
    each = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    return tuple(Dispatch(name, as_text(id), as_text(message), int(count)) for id, message, count in each)
