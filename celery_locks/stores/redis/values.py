"""Values that are kept with locks, in Redis: a text beside each lock; see the script ``write``."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.answers import MICROSECONDS
from celery_locks.stores.redis.connections import as_text
from celery_locks.stores.redis.scripts import Script


class RedisValues:
    """The part of `RedisStore` that keeps values."""

    values = True

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        return bool(self._run(scripts.WRITE, name, token, text, max(1, round(keep * MICROSECONDS))) == 1)

    def value(self, name: str) -> str | None:
        text = self._single("GET", f"{name}:value")
        return None if text is None else as_text(text)

    def delete(self, name: str) -> bool:
        return int(self._single("UNLINK", f"{name}:value")) == 1

    @abstractmethod
    def _run(self, script: Script, name: str, token: str, *args: Any, ttl: float | None = None) -> Any: ...

    @abstractmethod
    def _single(self, command: str, key: str) -> Any: ...
