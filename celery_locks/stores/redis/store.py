"""``redis://``: leases in a Redis 6.2+ or Valkey server.

Each change is one script (see the ``.lua`` files), so it is atomic and made by the server's clock. A command whose
reply was lost is sent once more: scripts know a repeated call by its owner token.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar, cast

import redis
from redis.exceptions import NoScriptError, RedisError

from celery_locks.errors import LossReason
from celery_locks.stores.base import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal, Store
from celery_locks.stores.redis import checks, scripts
from celery_locks.stores.redis.answers import MICROSECONDS, granted_or_refused, holders_of
from celery_locks.stores.redis.connections import Client, Connections, as_text, connections
from celery_locks.stores.redis.listing import RedisListing
from celery_locks.stores.redis.parking import RedisParking
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.values import RedisValues

T = TypeVar("T")

#: The longest that a single wait blocks on the server, in seconds.
LONGEST_WAIT = 5.0
#: How many leases are renewed in one round trip at most: more would keep other clients waiting.
BATCH = 1_000


class RedisStore(RedisParking, RedisListing, RedisValues, Store):
    """Leases in a Redis or Valkey server.

    Args:
        server: A URL, or a ``redis.Redis`` client whose settings are used (the client itself is not).
    """

    wakes = True
    waits_for = 100

    def __init__(self, server: str | redis.Redis) -> None:
        if isinstance(server, str):
            self._connections = connections(server)
        else:
            self._connections = Connections(server, type(server).__name__)

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        if claim.adopts or claim.replaces or claim.task_id:
            special = (claim.adopts, int(claim.replaces), claim.task_id, MOST_HOLDERS)
            taken = granted_or_refused(self._claim(scripts.TAKE, claim, *special))
            if line_up is None or isinstance(taken, Granted) or taken.replaced:
                return taken
        return granted_or_refused(self._claim(scripts.ACQUIRE, claim, _micro(line_up or 0), MOST_HOLDERS))

    def leave(self, name: str, token: str) -> None:
        self._run(scripts.LEAVE, name, token)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        # 0 would block for ever.
        longest = max(0.001, min(timeout, LONGEST_WAIT))
        client = self._connections.for_blocking(LONGEST_WAIT)
        tokens = {f"{name}:wake:{token}": token for name, token in places}
        try:
            woken = client.call("BLPOP", *tokens, f"{longest:.3f}")
        except RedisError as error:
            raise self._connections.unavailable(error) from error
        return () if woken is None else (tokens[as_text(woken[0])],)

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        answers: list[Any] = []
        for start in range(0, len(renewals), BATCH):
            answers += self._renew(renewals[start : start + BATCH])
        return [None if (reason := as_text(answer)) == "renewed" else cast(LossReason, reason) for answer in answers]

    def release(self, name: str, token: str) -> bool:
        return bool(self._run(scripts.RELEASE, name, token, secrets.token_hex(8)) == 1)

    def force_release(self, name: str) -> tuple[Holder, ...]:
        return holders_of(self._run(scripts.FORCE_RELEASE, name, "", MOST_HOLDERS))

    def holders(self, name: str) -> tuple[Holder, ...]:
        return holders_of(self._run(scripts.HOLDERS, name, "", MOST_HOLDERS))

    def held(self, name: str) -> int:
        return int(self._run(scripts.HELD, name, ""))

    def ping(self) -> None:
        try:
            self._connections.for_ttl().call("PING")
        except RedisError as error:
            raise self._connections.unavailable(error) from error

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        return self._ask(lambda call: checks.checks(call, parks))

    def about(self) -> str:
        return self._ask(checks.about)

    def _ask(self, question: Callable[[Callable[..., Any]], T]) -> T:
        try:
            return question(self._connections.for_ttl().call)
        except RedisError as error:
            raise self._connections.unavailable(error) from error

    def close(self) -> None:
        self._connections.close()

    def _claim(self, script: Script, claim: Claim, *args: Any) -> Any:
        terms = (_micro(claim.ttl), claim.limit, claim.permits, claim.owner)
        return self._run(script, claim.name, claim.token, *terms, *args, ttl=claim.ttl)

    def _run(self, script: Script, name: str, token: str, *args: Any, ttl: float | None = None) -> Any:
        return self._call(script, _command(script, name, token, *args), ttl)

    def _call(self, script: Script, command: tuple[Any, ...], ttl: float | None = None) -> Any:
        return self._twice(lambda client: _evalsha(client, script, command), ttl)

    def _renew(self, renewals: Sequence[Renewal]) -> list[Any]:
        commands = [_command(scripts.RENEW, each.name, each.token, _micro(each.ttl)) for each in renewals]
        shortest = min(renewal.ttl for renewal in renewals)
        if len(commands) == 1:
            return [self._twice(lambda client: _evalsha(client, scripts.RENEW, commands[0]), shortest)]
        return cast(list[Any], self._twice(lambda client: _evalsha_all(client, scripts.RENEW, commands), shortest))

    def _twice(self, call: Callable[[Client], Any], ttl: float | None) -> Any:
        """Calls, and once more when the connection broke: it may have been an old one, or the reply was lost."""
        client = self._connections.for_ttl(ttl)
        try:
            try:
                return call(client)
            except (redis.ConnectionError, redis.TimeoutError):
                return call(client)
        except RedisError as error:
            raise self._connections.unavailable(error) from error


def open_redis(url: str) -> RedisStore:
    """The store at a URL."""
    return RedisStore(url)


def _command(script: Script, name: str, token: str, *args: Any) -> tuple[Any, ...]:
    keys = (name, f"{name}:until", f"{name}:line", f"{name}:alive", f"{name}:wake:")
    return ("EVALSHA", script.sha, len(keys), *keys, token, name.partition("{")[0], *args)


def _evalsha(client: Client, script: Script, command: tuple[Any, ...]) -> Any:
    try:
        return client.call(*command)
    except NoScriptError:  # the server is new, or forgot its scripts
        client.call("SCRIPT", "LOAD", script.text)
        return client.call(*command)


def _evalsha_all(client: Client, script: Script, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    answers = client.call_all(commands)
    if any(isinstance(answer, NoScriptError) for answer in answers):
        client.call("SCRIPT", "LOAD", script.text)
        answers = client.call_all(commands)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _micro(seconds: float) -> int:
    return round(seconds * MICROSECONDS)
