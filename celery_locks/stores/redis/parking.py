"""Parking in Redis; see the scripts ``enter``, ``end_run``, ``sweep`` and ``tickets``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.parking import (
    Dispatch,
    Dropped,
    Full,
    Out,
    OutReason,
    Parked,
    Parking,
    Push,
    RunEndName,
    Ticket,
)
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.answers import MICROSECONDS, refused
from celery_locks.stores.redis.calls import call_of
from celery_locks.stores.redis.scripts import LONGEST_SLEEP, Script
from celery_locks.stores.redis.wire.connections import Connections, as_text
from celery_locks.stores.redis.wire.protocol import Command, arguments
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Value

#: What says which database of which server redis-py is connected to, and what it takes when that isn't said.
_PLACE = {"host": "localhost", "port": 6379, "path": None, "db": 0}


class RedisParking(Parking):
    """The part of `RedisStore` that parks tasks."""

    _connections: Connections

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        answer = self._claim(scripts.ENTER, claim, *_of(ticket))
        if not isinstance(answer, Sequence):
            return Granted(int(answer))
        kind, *rest = answer
        kind = as_text(kind)
        if kind == "granted":
            return Granted(int(rest[0]), has_ticket=True)
        if kind in ("parked", "refused"):
            return _parked(claim.name, kind, rest)
        if kind == "dropped":
            return Dropped("done" if as_text(rest[0]) == "done" else "running")
        if kind == "full":
            return Full(int(rest[0]))
        return Out(cast(OutReason, as_text(rest[0])), refused(rest[1:]))

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        answer = self._claim(scripts.PARK, claim, *_of(ticket))
        if not isinstance(answer, Sequence) or as_text(answer[0]) == "full":
            return None
        return _parked(claim.name, as_text(answer[0]), answer[1:])

    def is_broker(self, settings: Mapping[str, Any]) -> bool:
        mine = self._connections.settings
        if "connection_pool" in settings or "connection_pool" in mine:  # which server it is, Sentinels say each time
            return False
        return all(mine.get(name, default) == settings.get(name, default) for name, default in _PLACE.items())

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        answer = self._release(scripts.END_RUN, name, token, 2, arguments(end, broker), value)
        if isinstance(answer, int):  # no ticket and no line
            return answer == 1, ()
        released, *rest = answer
        return released == 1, _dispatches(name, rest)

    def published(self, dispatch: Dispatch, within: float) -> None:
        self._run(scripts.PUBLISHED, dispatch.name, "", dispatch.id, round(within * MICROSECONDS))

    def finish(self, name: str, ticket_id: str, token: str = "", *, running: bool = True) -> None:
        self._run(scripts.FINISH, name, "", ticket_id, token, int(running))

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        names = [as_text(name) for name in self._due(prefix, broker, most)]
        return self._as_far_as_it_goes(lambda name: self._swept(name, broker), names)

    def _as_far_as_it_goes(
        self, do: Callable[[Any], tuple[Dispatch, ...]], things: Sequence[Any]
    ) -> tuple[Dispatch, ...]:
        """Return the dispatches of several steps. Where one fails, those of the others are published all the same."""

        def tried(thing: Any) -> tuple[Dispatch, ...] | StoreUnavailable:
            try:
                return do(thing)
            except StoreUnavailable as error:
                return error

        results = [tried(thing) for thing in things]
        dispatches = tuple(dispatch for result in results if isinstance(result, tuple) for dispatch in result)
        failed = [result for result in results if isinstance(result, StoreUnavailable)]
        if failed and not dispatches:
            raise failed[0]
        return dispatches

    def _swept(self, name: str, broker: str) -> tuple[Dispatch, ...]:
        return _dispatches(name, self._run(scripts.SWEEP, name, "", broker))

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
        return self._call(scripts.DUE, keys[0], call_of(scripts.DUE, keys, most))

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        places = self._single("MGET", *task_places(prefix, broker, task_id))
        found = [place for place in places if place is not None]
        return self._as_far_as_it_goes(lambda place: self._withdraw(place, broker, task_id), found)

    def _withdraw(self, found: Any, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        """Withdraw what a task has, as the script ``park`` or ``take`` wrote it down."""
        # The length is in bytes, since a name may hold anything.
        kind, length, rest = (found if isinstance(found, bytes) else str(found).encode()).split(b" ", 2)
        name, what = self._name(rest[: int(length)].decode()), rest[int(length) :].decode()
        if kind == b"ticket":
            return _dispatches(name, self._run(scripts.WITHDRAW, name, "", what, task_id, broker))
        return self.end_run(name, what, "again", broker=broker)[1]

    def _name(self, name: str) -> str:
        """The name of a lock from that of its key."""
        return name

    def waiting(self, name: str) -> int:
        return int(self._run(scripts.WAITING, name, ""))

    @abstractmethod
    def _run(self, script: Script, name: str, token: str, *args: Any, ttl: float | None = None) -> Any: ...

    @abstractmethod
    def _release(self, script: Script, name: str, token: str, count: int, rest: str, value: Value | None) -> Any: ...

    @abstractmethod
    def _claim(self, script: Script, claim: Claim, count: int, rest: str) -> Any: ...

    @abstractmethod
    def _call(self, script: Script, key: str, command: Command, ttl: float | None = None) -> Any: ...

    @abstractmethod
    def _single(self, command: str, *keys: str) -> Any: ...


def of_broker(name: str, broker: str) -> list[str]:
    """Return the names of the records in which a broker's sweeper looks: its own, and the one without a broker."""
    return [f"{name}:{broker}", name] if broker else [name]


def task_places(prefix: str, broker: str, task_id: str) -> list[str]:
    """Return the keys that may name the ticket or the lease of a task."""
    return [f"{prefix}:{place}" for place in of_broker(f"task:{task_id}", broker)]


def _of(ticket: Ticket) -> tuple[int, str]:
    """Return a ticket as the scripts get it: how many arguments, and the arguments."""
    wait = 0 if ticket.wait is None else max(1, round(ticket.wait * MICROSECONDS))
    push = ticket.push or Push("", "", 0)
    terms = (ticket.id, ticket.message, ticket.task_id, wait, ticket.max_waiters or 0, MOST_HOLDERS)
    more = (push.queue, push.element, round(push.within * MICROSECONDS), ticket.owner, ticket.broker)
    return 12, arguments(*terms, *more, ticket.count if ticket.late else "")


def _parked(name: str, kind: str, rest: Sequence[Any]) -> Parked:
    if kind == "refused":
        return Parked(refused(rest))
    parts = int(rest[0]) * 3
    return Parked(refused(rest[1 + parts :]), _dispatches(name, rest[1 : 1 + parts]))


def _dispatches(name: str, answer: Sequence[Any]) -> tuple[Dispatch, ...]:
    """Return the dispatches of an answer: ticket, message, how often, …."""
    return tuple(Dispatch(name, as_text(id), as_text(message), int(count)) for id, message, count in _threes(answer))


def _threes(answer: Sequence[Any]) -> Iterable[tuple[Any, Any, Any]]:
    return zip(answer[::3], answer[1::3], answer[2::3], strict=True)
