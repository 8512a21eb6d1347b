"""``redis://``: leases in a Redis 6.2+ or Valkey server.

Each change is one script (see the ``.lua`` files), so it is atomic and made by the server's clock. A command whose
reply was lost is sent once more. Both copies together change what one would: scripts recognize a request by its owner
token. A repeated claim carries a mark, so that its first copy changes nothing if it comes later; see ``void.lua``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from celery_locks.errors import LossReason, StoreUnavailable
from celery_locks.stores.base import Store
from celery_locks.stores.loss_feed import LossFeed
from celery_locks.stores.redis import checks, scripts
from celery_locks.stores.redis.answers import MICROSECONDS, granted_or_refused, holders_of, reason_of
from celery_locks.stores.redis.calls import (
    Send,
    Sender,
    command_of,
    command_with,
    evalsha,
    evalsha_all,
    request_id,
)
from celery_locks.stores.redis.listing import RedisListing
from celery_locks.stores.redis.loss_list import LossList
from celery_locks.stores.redis.parking import RedisParking
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.values import RedisValues
from celery_locks.stores.redis.wire.client import Client
from celery_locks.stores.redis.wire.connections import (
    Connections,
    as_text,
    connections,
    patient_ttl,
)
from celery_locks.stores.redis.wire.protocol import Command, arguments, text_argument, text_arguments
from celery_locks.stores.redis.wire.urls import address, checked_replicas, checked_timeouts
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal, Value

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

#: The longest that a single wait blocks on the server, in seconds.
LONGEST_WAIT = 5.0
#: How many leases are renewed in one round trip at most: more would keep other clients waiting.
BATCH = 1_000
#: How many of them one script renews: it takes some milliseconds, in which the server does nothing else.
TOGETHER = 100
#: How many owner tokens a store remembers of which a claim failed, and how many claims of each.
MOST_UNCLEAR, MOST_CLAIMS_UNCLEAR = 10_000, 20


class RedisStore(RedisParking, RedisListing, RedisValues, Store):
    """Leases in a Redis or Valkey server.

    Args:
        server: A URL, or a client of redis-py or valkey-py whose settings are used (the client itself is not); that of
            a Sentinel's ``master_for`` will do.
        min_replicas: How many replicas must have a lease before it is granted or renewed; in a URL the parameter
            ``min_replicas``.
        connect_timeout: How long a connection may take, in seconds; 2 by default. In a URL the parameter of this name.
        request_timeout: How long a request may take, in seconds; 2 by default. In a URL the parameter of this name.
            Where a lease is short, or a caller waits for less, it is less.

    Raises:
        LockConfigError: A setting is wrong.
    """

    wakes = True
    waits_for = 100
    notices = True

    def __init__(
        self,
        server: str | redis.Redis,
        *,
        min_replicas: int | None = None,
        connect_timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> None:
        timeouts = checked_timeouts(connect_timeout, request_timeout)
        if isinstance(server, str):
            place = address(server)
            self._connections = connections(place)
            min_replicas = place.min_replicas if min_replicas is None else min_replicas
        else:
            self._connections = Connections(server, type(server).__name__, timeouts)
        self._min_replicas = checked_replicas(min_replicas or 0)
        #: Owner token → numbers of its claims and writes that failed: copies of these may still be under way.
        self._unclear: dict[str, list[str]] = {}

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        if claim.adopts or claim.replaces or claim.task_id:
            special = arguments(claim.adopts, int(claim.replaces), claim.task_id, MOST_HOLDERS)
            taken = granted_or_refused(self._claim(scripts.TAKE, claim, 4, special))
            if line_up is None or isinstance(taken, Granted) or taken.replaced:
                return taken
        return granted_or_refused(self._claim(scripts.ACQUIRE, claim, 3, _line_up(line_up or 0, claim.max_waiters)))

    def leave(self, name: str, token: str) -> None:
        self._run(scripts.LEAVE, name, token)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        try:
            return first_woken(self._connections, places, timeout)
        except self._connections.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        answers: list[LossReason | None] = []
        for start in range(0, len(renewals), BATCH):
            answers += self._renew(renewals[start : start + BATCH])
        return answers

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        unclear = self._unclear.get(token)
        void = _NONE_VOID if unclear is None else arguments(" ".join(unclear))
        released = self._release(scripts.RELEASE, name, token, 1, void, value)
        if unclear is not None:
            self._unclear.pop(token, None)
        return bool(released == 1)

    def shrink(self, name: str, token: str, permits: int) -> bool:
        return bool(self._run(scripts.SHRINK, name, token, permits) == 1)

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        return holders_of(self._run(scripts.FORCE_RELEASE, name, token, MOST_HOLDERS, request_id()))

    def loss_feed(self, name: str, process: str) -> LossFeed:
        return LossList(self._connections, f"{name.partition('{')[0]}lost:{process}", LONGEST_WAIT)

    def holders(self, name: str) -> tuple[Holder, ...]:
        return holders_of(self._run(scripts.HOLDERS, name, "", MOST_HOLDERS))

    def held(self, name: str) -> int:
        return int(self._run(scripts.HELD, name, ""))

    def ping(self) -> None:
        self._twice(None, Client.call, "PING")

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        return self._ask(lambda call: checks.checks(call, parks))

    def _forget_trial(self, name: str, ticket_id: str) -> None:
        for record in (f"ticket:{ticket_id}", "parked", "sweep"):
            self._single("UNLINK", f"{self._tag(name)}{name}:{record}")

    def about(self) -> str:
        return self._ask(checks.about)

    def _ask(self, question: Callable[[Callable[..., Any]], T]) -> T:
        answer: T = self._twice(None, lambda client: question(client.call))
        return answer

    def close(self) -> None:
        self._connections.close()

    def _claim(self, script: Script, claim: Claim, count: int, rest: str) -> Any:
        """Calls a script with a claim, so many more arguments, and the number of the request."""
        name, tag, number = claim.name, self._tag(claim.name), request_id()
        terms = f"{_terms(claim.ttl, claim.limit, claim.permits)}{text_argument(claim.owner)}"
        rest = f"{terms}{rest}{text_argument(number)}"
        command = command_with(script, name, claim.token, 5 + count, rest, tag)
        try:
            if self._min_replicas and script is not scripts.PARK:
                return self._claim_on_replicas(script, claim, command)
            return self._call(script, tag + name, command, patient_ttl(claim))
        except BaseException:
            self._is_unclear(claim.token, number)
            raise

    def _is_unclear(self, token: str, number: str) -> None:
        """Note that copies of a request may be under way."""
        if len(self._unclear) >= MOST_UNCLEAR:
            with suppress(RuntimeError, StopIteration):  # another thread changes it meanwhile
                self._unclear.pop(next(iter(self._unclear)), None)
        self._unclear[token] = [*self._unclear.get(token, ()), number][-MOST_CLAIMS_UNCLEAR:]

    def _claim_on_replicas(self, script: Script, claim: Claim, command: Command) -> Any:
        """Claim, and release what was granted and is on too few replicas.

        Raises:
            StoreUnavailable: It is on too few.
        """
        wanted = self._min_replicas

        def send(client: Sender, script: Script, command: Command) -> tuple[Any, int]:
            answer, confirmed = evalsha_all(client, script, [command], wanted)
            return answer, int(confirmed)

        answer, confirmed = self._call(script, self._tag(claim.name) + claim.name, command, patient_ttl(claim), send)
        # The grant of a known ticket is a list as well; see the script ``enter``.
        granted = not isinstance(answer, Sequence) or as_text(answer[0]) == "granted"
        if not granted or confirmed >= wanted:
            return answer
        with suppress(StoreUnavailable):
            self._run(scripts.RELEASE, claim.name, claim.token, "", ttl=claim.ttl)
        raise self._connections.too_few(confirmed, wanted)

    def _release(self, script: Script, name: str, token: str, count: int, rest: str, value: Value | None) -> Any:
        """As `_run` with ``count`` arguments, which are packed already, and the value to keep if there is one."""
        tag = self._tag(name)
        if value is not None:
            count, rest = count + 2, rest + arguments(value.text, max(1, _micro(value.keep)))
        return self._call(script, tag + name, command_with(script, name, token, count, rest, tag))

    def _run(self, script: Script, name: str, token: str, *args: Any, ttl: float | None = None) -> Any:
        tag = self._tag(name)
        return self._call(script, tag + name, command_of(script, name, token, *args, tag=tag), ttl)

    def _tag(self, name: str) -> str:
        """What comes before the names of a lock's records."""
        return ""

    def _call(self, script: Script, key: str, command: Command, ttl: float | None = None, send: Send = evalsha) -> Any:
        """Sends what calls a script to where a key is."""
        return self._twice(ttl, send, script, command)

    def _single(self, command: str, *keys: str) -> Any:
        return self._twice(None, Client.call, command, *keys)

    def _renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        shortest, wanted = min([renewal.ttl for renewal in renewals]), self._min_replicas
        if len(renewals) == 1 and not wanted:
            (one,) = renewals
            return [reason_of(self._run(scripts.RENEW, one.name, one.token, _micro(one.ttl), ttl=shortest))]
        parts = [renewals[start : start + TOGETHER] for start in range(0, len(renewals), TOGETHER)]
        commands = [_renew_many(part) for part in parts]
        answers: list[Any] = self._twice(shortest, evalsha_all, scripts.RENEW_MANY, commands, wanted)
        if wanted and (confirmed := int(answers.pop())) < wanted:
            raise self._connections.too_few(confirmed, wanted)
        return [said for part, lost in zip(parts, answers, strict=True) for said in _said(part, lost)]

    def _twice(self, ttl: float | None, call: Callable[..., Any], *args: Any) -> Any:
        """`Connections.twice`, with our error."""
        try:
            return self._connections.twice(ttl, call, *args)
        except self._connections.driver.errors as error:
            raise self._connections.unavailable(error) from error


def first_woken(
    connections: Connections, places: Sequence[tuple[str, str]], timeout: float, tag: str = ""
) -> Collection[str]:
    """Waits for the wake-ups of some tokens; see `Store.wait_any`.

    Where the connection breaks, a wake-up may be lost with it: so it may be the turn of each of them. They look at
    their locks next, which shows whether the server is there.

    Args:
        connections: To the server.
        places: Names and tokens.
        timeout: For how many seconds, at most `LONGEST_WAIT`.
        tag: Comes before all names.
    """
    tokens = {f"{tag}{name}:wake:{token}": token for name, token in places}
    return tuple(tokens[woken] for woken in connections.first_filled(tokens, min(timeout, LONGEST_WAIT)))


def open_redis(url: str) -> RedisStore:
    """The store at a URL."""
    return RedisStore(url)


def _renew_many(renewals: Sequence[Renewal]) -> Command:
    many, ttls = len(renewals), {each.ttl for each in renewals}
    start = arguments("EVALSHA", scripts.RENEW_MANY.sha, many)
    names, tokens = text_arguments([each.name for each in renewals]), text_arguments([each.token for each in renewals])
    if len(ttls) == 1:
        last = arguments(*map(_micro, ttls)) * many
    else:
        last = arguments(*[_micro(each.ttl) for each in renewals])
    return f"*{3 + 3 * many}\r\n{start}{names}{tokens}{last}".encode()


def _said(renewals: Sequence[Renewal], lost: Sequence[Any]) -> list[LossReason | None]:
    """What the script says of each, out of the numbers of those that it could not renew, and why."""
    said: list[LossReason | None] = [None] * len(renewals)
    for number, why in zip(lost[::2], lost[1::2], strict=True):
        said[int(number) - 1] = reason_of(why)
    return said


@lru_cache(256)
def _terms(ttl: float, limit: int, permits: int) -> str:
    return arguments(_micro(ttl), limit, permits)


@lru_cache(256)
def _line_up(seconds: float, max_waiters: int) -> str:
    return arguments(_micro(seconds), MOST_HOLDERS, max_waiters)


def _micro(seconds: float) -> int:
    return round(seconds * MICROSECONDS)


#: The first argument of a release of a token of which no claim failed.
_NONE_VOID = arguments("")
