"""Values that are kept with locks, in Redis: a text beside each lock; see the scripts ``write`` and ``delete``."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.answers import MICROSECONDS
from celery_locks.stores.redis.calls import call_of, request_id
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.connections import as_text
from celery_locks.stores.redis.wire.protocol import Command


class RedisValues:
    """The part of `RedisStore` that keeps values."""

    values = True
    _unclear: dict[str, list[str]]

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        kept, unclear, number = (
            max(1, round(keep * MICROSECONDS)),
            " ".join(self._unclear.get(token, ())),
            request_id(),
        )
        try:
            return bool(self._run(scripts.WRITE, name, token, text, kept, unclear, number) == 1)
        except BaseException:
            self._is_unclear(token, number)
            raise

    def value(self, name: str) -> str | None:
        text = self._single("GET", f"{name}:value")
        return None if text is None else as_text(text)

    def delete(self, name: str) -> bool:
        # Its mark is named by the call, so that no other delete or write can take it for another one's.
        keys = (f"{name}:value", f"{name}:deleted:{request_id()}")
        return bool(self._call(scripts.DELETE, keys[0], call_of(scripts.DELETE, keys)) == 1)

    @abstractmethod
    def _is_unclear(self, token: str, number: str) -> None: ...

    @abstractmethod
    def _run(self, script: Script, name: str, token: str, *args: Any, ttl: float | None = None) -> Any: ...

    @abstractmethod
    def _call(self, script: Script, key: str, command: Command, ttl: float | None = None) -> Any: ...

    @abstractmethod
    def _single(self, command: str, key: str) -> Any: ...
