"""Checks of a server's settings: each result names the problem and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery_locks._runtime.clock import wall_time
from celery_locks.stores.check_results import NOT_KNOWN
from celery_locks.stores.redis.remedies import code_of
from celery_locks.stores.redis.wire.connections import as_text
from celery_locks.stores.redis.wire.driver import response_errors

#: Seconds by which the clocks of server and client may differ. Leases use the server's clock only. But countdowns and
#: expiries of messages are times of one machine's clock that another machine reads.
MOST_CLOCK_DIFFERENCE_SECONDS = 5.0

Call = Callable[..., Any]


#: The oldest release that has all commands of the scripts.
OLDEST_RELEASE = (6, 2)


class NotKnown(Exception):
    """A check could not be made. The text is the reason."""


def checks(call: Call, parks: bool) -> dict[str, str]:
    """Return the result of each check: the problem, an empty text for none, or that it is not known.

    Args:
        call: Sends a command and returns the reply.
        parks: Whether tasks wait in the store, so that it must not forget them.

    Raises:
        redis.RedisError: The server can't be reached.
    """
    made = {"version": _version, "eviction": _eviction, "clock": _clock}
    if parks:
        made["persistence"] = _persistence
    return {name: _result(check, call) for name, check in made.items()}


def _result(check: Callable[[Call], str], call: Call) -> str:
    try:
        return check(call)
    except NotKnown as error:
        return f"{NOT_KNOWN}{error}"


def about(call: Call) -> str:
    """Return the server's name and release.

    Raises:
        redis.RedisError: The server can't be reached.
    """
    try:
        info = _info(call, "server")
    except NotKnown:
        info = {}
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '(unknown release)')}"


def _version(call: Call) -> str:
    version = _field(_info(call, "server"), "redis_version")  # Valkey has the compatible Redis version there
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        raise NotKnown(f"the server reports the version {version!r}")
    if (int(parts[0]), int(parts[1])) >= OLDEST_RELEASE:
        return ""
    return f"the lock store is a Redis {version}, and locks need 6.2 or newer, or Valkey. Upgrade the server"


def _eviction(call: Call) -> str:
    memory = _info(call, "memory")
    policy = _field(memory, "maxmemory_policy")
    if policy == "noeviction" or (most := _field(memory, "maxmemory")) == "0":
        return ""
    return (
        f"the lock store evicts keys when its {most} bytes are full (maxmemory-policy {policy}; all of ours "
        "expire, so volatile-* takes them too): a lease that is evicted is lost while its task runs. Set "
        "maxmemory-policy noeviction, or give locks a server of their own by locks_url"
    )


def _persistence(call: Call) -> str:
    info = _info(call, "persistence")
    if _field(info, "aof_enabled") == "1" or _saves(call):
        return ""
    return (
        "tasks park in the lock store, which keeps nothing on disk (appendonly no, no save points): when it restarts, "
        "parked tasks are gone. Set appendonly yes, or lock_park_safety_copy for tasks that must not be lost"
    )


def _saves(call: Call) -> bool:
    """Return whether there are save points."""
    reply = _ask(call, "CONFIG", "GET", "save")
    parts = list(reply.values() if isinstance(reply, Mapping) else reply[1::2])
    if not parts:
        raise NotKnown("the server does not report its save points")
    return as_text(parts[0]) != ""


def _clock(call: Call) -> str:
    before = wall_time()
    seconds, micros = _ask(call, "TIME")
    after = wall_time()
    there = int(seconds) + int(micros) / 1e6
    apart = there - after if there > after else there - before if there < before else 0.0
    if abs(apart) <= MOST_CLOCK_DIFFERENCE_SECONDS:
        return ""
    side = "ahead of" if apart > 0 else "behind"
    return (
        f"the lock store's clock is {abs(apart):.0f} s {side} this machine's: leases don't mind, but countdowns, "
        "expires and eta of messages do. Set both by NTP"
    )


def _info(call: Call, section: str) -> dict[str, str]:
    text = as_text(_ask(call, "INFO", section))
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _field(info: Mapping[str, str], name: str) -> str:
    try:
        return info[name]
    except KeyError:
        raise NotKnown(f"the server does not report {name}") from None


def _ask(call: Call, *command: str) -> Any:
    """Send a command that the user may not be allowed to call, or that a managed server may lack.

    Raises:
        NotKnown: The server refuses it.
    """
    try:
        return call(*command)
    except response_errors() as error:
        name = " ".join(command[:2]) if command[0] == "CONFIG" else command[0]
        if code_of(error) == "NOPERM":
            raise NotKnown(f"this user may not run {name}") from error
        raise NotKnown(f"the server refuses {name}: {error}") from error
