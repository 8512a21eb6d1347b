"""What is held, in Redis; see the scripts ``list``, ``stats`` and ``info``."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

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
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.answers import MICROSECONDS, info_of, page_of, stats_of
from celery_locks.stores.redis.calls import call_of
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.protocol import Command
from celery_locks.stores.types import MOST_HOLDERS


class RedisListing:
    """The part of `RedisStore` that tells what is held."""

    lists = True

    def info(self, name: str) -> LockInfo:
        return info_of(name, self._run(scripts.INFO, name, "", MOST_HOLDERS, MOST_IN_LINE))

    def page(self, names: NameRange) -> Page:
        # In UTF-8, as the server compares, and so are code points in Python.
        begin = f"(n{names.after}" if names.after >= names.start else f"[n{names.start}"
        looks = names.count + MOST_PASSED_OVER
        return page_of(self._over(scripts.LIST, names.prefix, begin, names.start, names.count, looks, MOST_LISTED))

    def stats(self, prefix: str, near: float) -> Stats:
        return stats_of(self._over(scripts.STATS, prefix, round(near * MICROSECONDS), MOST_COUNTED))

    def _over(self, script: Script, prefix: str, *args: Any) -> Any:
        keys = (f"{prefix}:locks", f"{prefix}:lines")
        return self._call(script, keys[0], call_of(script, keys, *args))

    @abstractmethod
    def _run(self, script: Script, name: str, token: str, *args: Any, ttl: float | None = None) -> Any: ...

    @abstractmethod
    def _call(self, script: Script, key: str, command: Command, ttl: float | None = None) -> Any: ...
