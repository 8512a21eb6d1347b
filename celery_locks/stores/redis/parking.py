"""Parking in Redis; see the scripts ``enter``, ``hand_on``, ``sweep`` and ``tickets``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from celery_locks.stores.base import MOST_HOLDERS, Claim, Granted
from celery_locks.stores.parking import Call, Dropped, Full, Out, OutReason, Parked, Parking, Push, Ticket
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.answers import MICROSECONDS, refused
from celery_locks.stores.redis.calls import call_of
from celery_locks.stores.redis.connections import Connections, as_text
from celery_locks.stores.redis.protocol import Command, arguments
from celery_locks.stores.redis.scripts import Script

#: The longest that the sweeper blocks on the server, in seconds.
LONGEST_WAIT = 5.0
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

    def hand_on(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        answer = self._give_back(scripts.HAND_ON, name, token)
        if isinstance(answer, int):  # nobody is called
            return answer == 1, ()
        released, *calls = answer
        return released == 1, _calls(name, calls)

    def died(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        released, *calls = self._give_back(scripts.DIED, name, token)
        return released == 1, _calls(name, calls)

    def sent(self, call: Call, within: float) -> None:
        self._run(scripts.SENT, call.name, "", call.id, round(within * MICROSECONDS))

    def settle(self, name: str, ticket_id: str) -> None:
        self._run(scripts.SETTLE, name, "", ticket_id)

    def sweep(self, prefix: str, most: int = 100) -> tuple[Call, ...]:
        names = [as_text(name) for name in self._due(prefix, most)]
        return tuple(call for name in names for call in self._swept(name))

    def _swept(self, name: str) -> tuple[Call, ...]:
        return _calls(name, self._run(scripts.SWEEP, name, ""))

    def await_due(self, prefix: str, timeout: float) -> None:
        due_in = self._due(prefix, 0)
        if due_in >= 0:
            timeout = min(timeout, due_in / MICROSECONDS)
        longest = max(0.001, min(timeout, LONGEST_WAIT))  # 0 would block for ever
        client = self._connections.for_blocking(LONGEST_WAIT)
        try:
            client.call("BLPOP", f"{prefix}:sweep", f"{longest:.3f}")
        except client.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def _due(self, prefix: str, most: int) -> Any:
        key = f"{prefix}:parked"
        return self._call(scripts.DUE, key, call_of(scripts.DUE, [key], most))

    def withdraw(self, prefix: str, task_id: str) -> tuple[Call, ...]:
        found = self._single("GET", f"{prefix}:task:{task_id}")
        return () if found is None else self._withdraw(found)

    def _withdraw(self, found: Any) -> tuple[Call, ...]:
        """Withdraws what a task has, as the script ``park`` or ``take`` wrote it down."""
        # The length is in bytes, since a name may hold anything.
        kind, length, rest = (found if isinstance(found, bytes) else str(found).encode()).split(b" ", 2)
        name, what = self._name(rest[: int(length)].decode()), rest[int(length) :].decode()
        if kind == b"ticket":
            return _calls(name, self._run(scripts.WITHDRAW, name, "", what))
        return self.hand_on(name, what)[1]

    def _name(self, name: str) -> str:
        """The name of a lock from that of its key."""
        return name

    def waiting(self, name: str) -> int:
        return int(self._run(scripts.WAITING, name, ""))

    @abstractmethod
    def _run(self, script: Script, name: str, token: str, *args: Any, ttl: float | None = None) -> Any: ...

    @abstractmethod
    def _give_back(self, script: Script, name: str, token: str) -> Any: ...

    @abstractmethod
    def _claim(self, script: Script, claim: Claim, count: int, rest: str) -> Any: ...

    @abstractmethod
    def _call(self, script: Script, key: str, command: Command, ttl: float | None = None) -> Any: ...

    @abstractmethod
    def _single(self, command: str, key: str) -> Any: ...


def _of(ticket: Ticket) -> tuple[int, str]:
    """A ticket as the scripts get it: so many arguments."""
    wait = 0 if ticket.wait is None else max(1, round(ticket.wait * MICROSECONDS))
    push = ticket.push or Push("", "", 0)
    terms = (ticket.id, ticket.message, ticket.task_id, wait, ticket.max_waiters or 0, MOST_HOLDERS)
    return 10, arguments(*terms, push.queue, push.element, round(push.within * MICROSECONDS), ticket.owner)


def _parked(name: str, kind: str, rest: Sequence[Any]) -> Parked:
    if kind == "refused":
        return Parked(refused(rest))
    calls = int(rest[0]) * 3
    return Parked(refused(rest[1 + calls :]), _calls(name, rest[1 : 1 + calls]))


def _calls(name: str, answer: Sequence[Any]) -> tuple[Call, ...]:
    """The calls of an answer: ticket, message, how often, …."""
    return tuple(Call(name, as_text(id), as_text(message), int(calls)) for id, message, calls in _threes(answer))


def _threes(answer: Sequence[Any]) -> Iterable[tuple[Any, Any, Any]]:
    return zip(answer[::3], answer[1::3], answer[2::3], strict=True)
