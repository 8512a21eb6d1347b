"""The calls of scripts that all parts of the Redis store make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.base import Store
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.commands import (
    Send,
    Sender,
    evalsha,
    evalsha_all,
    lock_command,
    packed_lock_command,
    request_id,
)
from celery_locks.stores.redis.replies import MICROSECONDS
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.client import Client
from celery_locks.stores.redis.wire.connections import Connections, as_text, patient_ttl
from celery_locks.stores.redis.wire.protocol import Command, arguments, text_argument
from celery_locks.stores.types import Claim, Value

#: How many owner tokens with failed requests a store remembers, and how many requests of each.
MOST_UNCLEAR_TOKENS, MOST_UNCLEAR_REQUESTS = 10_000, 20


class ScriptStore(Store):
    """A store whose changes are Lua scripts on a server."""

    _connections: Connections
    _min_replicas: int
    #: Owner token → ids of its claims and writes that failed. Copies of them may still be under way.
    _unclear: dict[str, list[str]]

    def _tag(self, name: str) -> str:
        """Return the hash tag that comes before the names of a lock's keys."""
        return ""

    def _run(self, script: Script, name: str, token: str, *args: Any, ttl: float | None = None) -> Any:
        """Call a script of one lock."""
        tag = self._tag(name)
        return self._call(script, tag + name, lock_command(script, name, token, *args, tag=tag), ttl)

    def _claim(self, script: Script, claim: Claim, args: int, packed_args: str) -> Any:
        """Call a script with a claim, other arguments that are packed already, and the id of the request."""
        name, tag, request = claim.name, self._tag(claim.name), request_id()
        terms = f"{_pack_terms(claim.ttl, claim.limit, claim.permits)}{text_argument(claim.owner)}"
        packed_args = f"{terms}{packed_args}{text_argument(request)}"
        command = packed_lock_command(script, name, claim.token, 5 + args, packed_args, tag)
        try:
            if self._min_replicas and script is not scripts.PARK:
                return self._claim_on_replicas(script, claim, command)
            return self._call(script, tag + name, command, patient_ttl(claim))
        except BaseException:
            self._note_unclear(claim.token, request)
            raise

    def _claim_on_replicas(self, script: Script, claim: Claim, command: Command) -> Any:
        """Claim, and release a granted lease that too few replicas have.

        Raises:
            StoreUnavailable: Too few replicas have it.
        """
        wanted = self._min_replicas

        def send(client: Sender, script: Script, command: Command) -> tuple[Any, int]:
            reply, confirmed = evalsha_all(client, script, [command], wanted)
            return reply, int(confirmed)

        reply, confirmed = self._call(script, self._tag(claim.name) + claim.name, command, patient_ttl(claim), send)
        # The grant to a known ticket is a list too; see the script ``enter``.
        granted = not isinstance(reply, Sequence) or as_text(reply[0]) == "granted"
        if not granted or confirmed >= wanted:
            return reply
        with suppress(StoreUnavailable):
            self._run(scripts.RELEASE, claim.name, claim.token, "", ttl=claim.ttl)
        raise self._connections.too_few(confirmed, wanted)

    def _release(self, script: Script, name: str, token: str, args: int, packed_args: str, value: Value | None) -> Any:
        """Call a script that releases a lease and keeps a value, if there is one. The arguments are packed already."""
        tag = self._tag(name)
        if value is not None:
            args, packed_args = args + 2, packed_args + arguments(value.text, max(1, as_micros(value.keep)))
        return self._call(script, tag + name, packed_lock_command(script, name, token, args, packed_args, tag))

    def _note_unclear(self, token: str, request: str) -> None:
        """Note that copies of a request may be under way."""
        if len(self._unclear) >= MOST_UNCLEAR_TOKENS:
            with suppress(RuntimeError, StopIteration):  # another thread changes it meanwhile
                self._unclear.pop(next(iter(self._unclear)), None)
        self._unclear[token] = [*self._unclear.get(token, ()), request][-MOST_UNCLEAR_REQUESTS:]

    def _call(self, script: Script, key: str, command: Command, ttl: float | None = None, send: Send = evalsha) -> Any:
        """Send a script's command to the server of a key."""
        return self._twice(ttl, send, script, command)

    def _single(self, command: str, *keys: str) -> Any:
        """Send a command about some keys of one lock."""
        return self._twice(None, Client.call, command, *keys)

    def _twice(self, ttl: float | None, call: Callable[..., Any], *args: Any) -> Any:
        """Call `Connections.twice`, and raise `StoreUnavailable` for the library's errors."""
        try:
            return self._connections.twice(ttl, call, *args)
        except self._connections.driver.errors as error:
            raise self._connections.unavailable(error) from error


def as_micros(seconds: float) -> int:
    return round(seconds * MICROSECONDS)


@lru_cache(256)
def _pack_terms(ttl: float, limit: int, permits: int) -> str:
    return arguments(as_micros(ttl), limit, permits)
