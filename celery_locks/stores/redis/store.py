"""``redis://``: leases in a Redis 6.2+ or Valkey server.

Each change is one script, so it is atomic and uses the server's clock; see `celery_locks.stores.redis.scripts`. If the
reply to a request is lost, the store sends the request once more. Both copies together change what one would: scripts
recognize a request by its owner token. A repeated claim voids its first copy; see ``lua/parts/voided_requests.lua``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from celery_locks.errors import LossReason
from celery_locks.stores.listing import (
    MOST_COUNTED,
    MOST_IN_LINE,
    MOST_LISTED,
    MOST_PASSED_OVER,
    LockInfo,
    NameRange,
    Page,
    Stats,
)
from celery_locks.stores.loss_feed import LossFeed
from celery_locks.stores.redis import checks, scripts
from celery_locks.stores.redis.commands import evalsha_all, request_id, script_command
from celery_locks.stores.redis.loss_list import LossList
from celery_locks.stores.redis.parking import RedisParking
from celery_locks.stores.redis.replies import (
    parse_claim,
    parse_holders,
    parse_info,
    parse_page,
    parse_renewal,
    parse_stats,
)
from celery_locks.stores.redis.script_store import as_micros
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.client import Client
from celery_locks.stores.redis.wire.connections import Connections, as_text, connections
from celery_locks.stores.redis.wire.protocol import Command, arguments, text_arguments
from celery_locks.stores.redis.wire.urls import address, checked_replicas, checked_timeouts
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal, Value

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

#: The longest that a single wait blocks on the server, in seconds.
LONGEST_WAIT = 5.0
#: How many leases one round trip renews at most: with more, other clients would have to wait.
BATCH = 1_000
#: How many leases one script renews at most: it takes some milliseconds, in which the server does nothing else.
SCRIPT_BATCH = 100
#: The packed list of failed requests of most owner tokens.
_NO_REQUESTS = arguments("")


class RedisStore(RedisParking):
    """Leases in a Redis or Valkey server.

    Args:
        server: A URL, or a client of redis-py or valkey-py. The store uses the settings of the client, not the client
            itself. A client of a Sentinel's ``master_for`` is supported.
        min_replicas: How many replicas must have a lease before it is granted or renewed; in a URL the parameter
            ``min_replicas``.
        connect_timeout: How long a connection may take, in seconds; 2 by default. In a URL the parameter of this name.
        request_timeout: How long a request may take, in seconds; 2 by default. In a URL the parameter of this name.
            If a lease is short, or a caller waits for less, it is less.

    Raises:
        LockConfigError: A setting is wrong.
    """

    wakes = True
    waits_for = 100
    notices = True
    values = True
    lists = True

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
            parsed = address(server)
            self._connections = connections(parsed)
            min_replicas = parsed.min_replicas if min_replicas is None else min_replicas
        else:
            self._connections = Connections(server, type(server).__name__, timeouts)
        self._min_replicas = checked_replicas(min_replicas or 0)
        self._unclear = {}

    # Leases

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        if claim.adopts or claim.replaces or claim.task_id:
            special = arguments(claim.adopts, int(claim.replaces), claim.task_id, MOST_HOLDERS)
            taken = parse_claim(self._claim(scripts.TAKE, claim, 4, special))
            if line_up is None or isinstance(taken, Granted) or taken.replaced:
                return taken
        return parse_claim(self._claim(scripts.ACQUIRE, claim, 3, _pack_line_up(line_up or 0, claim.max_waiters)))

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
        reasons: list[LossReason | None] = []
        for start in range(0, len(renewals), BATCH):
            reasons += self._renew(renewals[start : start + BATCH])
        return reasons

    def _renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        shortest, wanted = min([renewal.ttl for renewal in renewals]), self._min_replicas
        if len(renewals) == 1 and not wanted:
            (one,) = renewals
            return [parse_renewal(self._run(scripts.RENEW, one.name, one.token, as_micros(one.ttl), ttl=shortest))]
        batches = [renewals[start : start + SCRIPT_BATCH] for start in range(0, len(renewals), SCRIPT_BATCH)]
        commands = [_renew_many_command(batch) for batch in batches]
        replies: list[Any] = self._twice(shortest, evalsha_all, scripts.RENEW_MANY, commands, wanted)
        if wanted and (confirmed := int(replies.pop())) < wanted:
            raise self._connections.too_few(confirmed, wanted)
        reasons: list[LossReason | None] = []
        for batch, lost in zip(batches, replies, strict=True):
            start = len(reasons)
            reasons += [None] * len(batch)
            for number, reason in zip(lost[::2], lost[1::2], strict=True):
                reasons[start + int(number) - 1] = parse_renewal(reason)
        return reasons

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        unclear = self._unclear.get(token)
        requests = _NO_REQUESTS if unclear is None else arguments(" ".join(unclear))
        released = self._release(scripts.RELEASE, name, token, 1, requests, value)
        if unclear is not None:
            self._unclear.pop(token, None)
        return bool(released == 1)

    def shrink(self, name: str, token: str, permits: int) -> bool:
        return bool(self._run(scripts.SHRINK, name, token, permits) == 1)

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        return parse_holders(self._run(scripts.FORCE_RELEASE, name, token, MOST_HOLDERS, request_id()))

    def loss_feed(self, name: str, process: str) -> LossFeed:
        return LossList(self._connections, f"{name.partition('{')[0]}lost:{process}", LONGEST_WAIT)

    def holders(self, name: str) -> tuple[Holder, ...]:
        return parse_holders(self._run(scripts.HOLDERS, name, "", MOST_HOLDERS))

    def held(self, name: str) -> int:
        return int(self._run(scripts.HELD, name, ""))

    # Values

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        unclear, request = " ".join(self._unclear.get(token, ())), request_id()
        try:
            kept = max(1, as_micros(keep))
            return bool(self._run(scripts.WRITE, name, token, text, kept, unclear, request) == 1)
        except BaseException:
            self._note_unclear(token, request)
            raise

    def value(self, name: str) -> str | None:
        text = self._single("GET", f"{name}:value")
        return None if text is None else as_text(text)

    def delete(self, name: str) -> bool:
        keys = (f"{name}:value", f"{name}:deleted:{request_id()}")
        return bool(self._call(scripts.DELETE, keys[0], script_command(scripts.DELETE, keys)) == 1)

    # All locks

    def info(self, name: str) -> LockInfo:
        return parse_info(name, self._run(scripts.INFO, name, "", MOST_HOLDERS, MOST_IN_LINE))

    def page(self, names: NameRange) -> Page:
        # The server compares UTF-8, Python code points: the order is the same.
        begin = f"(n{names.after}" if names.after >= names.start else f"[n{names.start}"
        looks = names.count + MOST_PASSED_OVER
        args = (begin, names.start, names.count, looks, MOST_LISTED)
        return parse_page(self._run_on_list(scripts.PAGE, names.prefix, *args))

    def stats(self, prefix: str, near: float) -> Stats:
        return parse_stats(self._run_on_list(scripts.STATS, prefix, as_micros(near), MOST_COUNTED))

    def _run_on_list(self, script: Script, prefix: str, *args: Any) -> Any:
        keys = (f"{prefix}:locks", f"{prefix}:lines")
        return self._call(script, keys[0], script_command(script, keys, *args))

    # The server

    def ping(self) -> None:
        self._twice(None, Client.call, "PING")

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        return self._inspect(lambda call: checks.checks(call, parks))

    def about(self) -> str:
        return self._inspect(checks.about)

    def _inspect(self, question: Callable[[Callable[..., Any]], T]) -> T:
        answer: T = self._twice(None, lambda client: question(client.call))
        return answer

    def _forget_trial(self, name: str, ticket_id: str) -> None:
        for record in (f"ticket:{ticket_id}", "parked", "sweep"):
            self._single("UNLINK", f"{self._tag(name)}{name}:{record}")

    def close(self) -> None:
        self._connections.close()


def first_woken(
    connections: Connections, places: Sequence[tuple[str, str]], timeout: float, tag: str = ""
) -> Collection[str]:
    """Wait for the wake-ups of some tokens; see `Store.wait_any`.

    When the connection breaks, a wake-up may be lost with it, so all tokens are returned. Each waiter then asks for its
    lock, and learns whether the server can be reached.

    Args:
        connections: The connections to the server.
        places: Names and tokens.
        timeout: The longest wait in seconds; at most `LONGEST_WAIT`.
        tag: The hash tag of the locks, in a cluster.
    """
    tokens = {f"{tag}{name}:wake:{token}": token for name, token in places}
    return tuple(tokens[woken] for woken in connections.first_filled(tokens, min(timeout, LONGEST_WAIT)))


def open_redis(url: str) -> RedisStore:
    """Return the store at a URL."""
    return RedisStore(url)


def _renew_many_command(renewals: Sequence[Renewal]) -> Command:
    count, ttls = len(renewals), {each.ttl for each in renewals}
    start = arguments("EVALSHA", scripts.RENEW_MANY.sha, count)
    names, tokens = text_arguments([each.name for each in renewals]), text_arguments([each.token for each in renewals])
    if len(ttls) == 1:
        packed_ttls = arguments(*map(as_micros, ttls)) * count
    else:
        packed_ttls = arguments(*[as_micros(each.ttl) for each in renewals])
    return f"*{3 + 3 * count}\r\n{start}{names}{tokens}{packed_ttls}".encode()


@lru_cache(256)
def _pack_line_up(seconds: float, max_waiters: int) -> str:
    return arguments(as_micros(seconds), MOST_HOLDERS, max_waiters)
