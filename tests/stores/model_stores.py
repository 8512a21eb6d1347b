"""Stores under a clock that a test moves, for the model-based tests."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import redis

from celery_locks.stores.base import Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.sql.schema import TABLES
from celery_locks.stores.sqlite.store import WRITES_PER_SWEEP, SQLiteStore
from celery_locks.testing import MovableClock


class MemoryStores:
    """``memory://``: one object is the store."""

    examples = 200

    def clear(self) -> None:
        self._clock = MovableClock()
        self._store = MemoryStore(self._clock)

    def open(self) -> Store:
        return self._store

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def remains(self) -> list[str]:
        return []


class SQLiteStores:
    """``sqlite://``: a file."""

    examples = 50

    def __init__(self, folder: Path) -> None:
        self._path = folder / "locks.db"

    def clear(self) -> None:
        self._clock = MovableClock()
        for file in self._path.parent.glob(f"{self._path.name}*"):
            file.unlink()

    def open(self) -> Store:
        return SQLiteStore(str(self._path), clock=self._clock)

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def remains(self) -> list[str]:
        """What is still there when all has ended and a few more writes came by."""
        self._clock.advance(100 * 86_400)
        store = self.open()
        for _ in range(2 * WRITES_PER_SWEEP * len(TABLES)):
            store.ping()
        store.close()
        with closing(sqlite3.connect(self._path)) as db:
            tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
        return [table for table, count in rows.items() if count and table != "celery_locks_clock"]


#: The key that a clock lies at, in microseconds.
CLOCK = "clock of the tests"
#: Put before each script: time comes from that key, and moves by a microsecond at each look. It runs far ahead of the
#: server's, so that no key ends by itself; expiries that are relative are made so from it.
SHIFT = f"""
local real, redis = redis, setmetatable({{}}, {{__index = redis}})
local function later(milliseconds)
  return string.format('%.0f', math.floor(real.call('GET', '{CLOCK}') / 1000) + milliseconds)
end
local function shifted(call)
  return function(command, ...)
    local given = {{...}}
    if command == 'TIME' then
      local now = real.call('INCR', '{CLOCK}')
      return {{string.format('%.0f', math.floor(now / 1000000)), string.format('%.0f', now % 1000000)}}
    elseif command == 'PEXPIRE' then
      return call('PEXPIREAT', given[1], later(given[2]))
    elseif command == 'SET' and given[3] == 'PX' then
      return call('SET', given[1], given[2], 'PXAT', later(given[4]))
    end
    return call(command, ...)
  end
end
redis.call, redis.pcall = shifted(real.call), shifted(real.pcall)
"""
#: Moves the clock, and takes away the keys whose time is over.
ADVANCE = f"""
local function server_time()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- When a key ends; below 0 where it does not.
local function end_of(key)
  local exact = redis.pcall('PEXPIRETIME', key)
  if type(exact) == 'number' then
    return exact
  end
  while true do -- Redis before 7 says only for how long: within one millisecond that is as good
    local before, left, after = server_time(), redis.call('PTTL', key), server_time()
    if before == after then
      return left < 0 and left or before + left
    end
  end
end
local now = redis.call('INCRBY', '{CLOCK}', ARGV[1]) / 1000
for _, key in ipairs(redis.call('KEYS', '*')) do
  local ends = end_of(key)
  if ends >= 0 and ends <= now then
    redis.call('DEL', key)
  end
end
"""


class RedisStores:
    """``redis://``: a database of a real server, whose scripts read the time from a key of it."""

    examples = 40

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = redis.Redis.from_url(url, decode_responses=True)

    def clear(self) -> None:
        self._client.flushdb()
        self._client.set(CLOCK, int((time.time() + 50 * 365 * 86_400) * 1e6))

    def open(self) -> Store:
        return RedisStore(self._url)

    def advance(self, seconds: float) -> None:
        self._client.eval(ADVANCE, 0, round(seconds * 1e6))

    def remains(self) -> list[str]:
        """Keys without an expiry."""
        keys = (str(key) for key in self._client.scan_iter())
        return [key for key in keys if key != CLOCK and self._client.ttl(key) == -1]


@contextmanager
def shifted_scripts() -> Iterator[None]:
    """All scripts of the Redis store read the tests' clock."""
    all_of_them = {name: value for name, value in vars(scripts).items() if isinstance(value, Script)}
    with patch.multiple(scripts, **{name: Script(SHIFT + script.text) for name, script in all_of_them.items()}):
        yield
