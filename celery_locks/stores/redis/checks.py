"""What in a server's settings breaks what leases promise, in words that name the remedy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from celery_locks.stores.redis.connections import as_text
from celery_locks.stores.redis.driver import response_errors

#: Seconds by which the clocks of server and client may differ: leases don't mind, but countdowns and expiries of
#: messages are moments of one machine's clock that another reads.
CLOCKS_APART = 5.0

Call = Callable[..., Any]


#: The oldest release that has all the commands of the scripts.
OLDEST = (6, 2)


def checks(call: Call, parks: bool) -> dict[str, str]:
    """What was looked at in the server, and what is wrong with it (nothing: empty).

    Args:
        call: Sends a command and returns the answer.
        parks: Whether tasks wait in the store, so that it must not forget them.

    Raises:
        redis.RedisError: The server can't be reached.
    """
    return {
        "version": _version(call),
        "eviction": _eviction(_info(call, "memory")),
        "clock": _clock(call),
        **({"persistence": _persistence(call)} if parks else {}),
    }


def about(call: Call) -> str:
    """The server's name and release, as far as it says.

    Raises:
        redis.RedisError: The server can't be reached.
    """
    info = _info(call, "server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '(it does not say which)')}"


def _version(call: Call) -> str:
    said = _info(call, "server").get("redis_version", "")  # Valkey says there which Redis it is like
    parts = said.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()) or (int(parts[0]), int(parts[1])) >= OLDEST:
        return ""
    return f"the lock store is a Redis {said}, and locks need 6.2 or newer, or Valkey. Upgrade the server"


def _eviction(memory: Mapping[str, str]) -> str:
    policy, most = memory.get("maxmemory_policy", "noeviction"), memory.get("maxmemory", "0")
    if policy == "noeviction" or most == "0":
        return ""
    return (
        f"the lock store evicts keys when its {most} bytes are full (maxmemory-policy {policy}; all of ours "
        "expire, so volatile-* takes them too): a lease that is evicted is lost while its task runs. Set "
        "maxmemory-policy noeviction, or give locks a server of their own by locks_url"
    )


def _persistence(call: Call) -> str:
    info = _info(call, "persistence")
    if not info or info.get("aof_enabled") == "1" or _saves(call):
        return ""
    return (
        "tasks park in the lock store, which keeps nothing on disk (appendonly no, no save points): when it restarts, "
        "parked tasks are gone. Set appendonly yes, or lock_park_safety_copy for tasks that must not be lost"
    )


def _saves(call: Call) -> bool:
    """Whether there are save points, as far as this user may know: a managed server doesn't say."""
    try:
        answer = call("CONFIG", "GET", "save")
    except response_errors():
        return True
    parts = list(answer.values() if isinstance(answer, Mapping) else answer[1::2])
    return not parts or as_text(parts[0]) != ""


def _clock(call: Call) -> str:
    before = time.time()
    try:
        seconds, micros = call("TIME")
    except response_errors():
        return ""
    after = time.time()
    there = int(seconds) + int(micros) / 1e6
    apart = there - after if there > after else there - before if there < before else 0.0
    if abs(apart) <= CLOCKS_APART:
        return ""
    side = "ahead of" if apart > 0 else "behind"
    return (
        f"the lock store's clock is {abs(apart):.0f} s {side} this machine's: leases don't mind, but countdowns, "
        "expires and eta of messages do. Set both by NTP"
    )


def _info(call: Call, section: str) -> dict[str, str]:
    try:
        text = as_text(call("INFO", section))
    except response_errors():  # forbidden: nothing is known, so nothing is wrong
        return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
