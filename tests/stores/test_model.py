"""Every store does what the model does, whatever happens in whatever order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.model_stores import MemoryStores, RedisStores, SQLiteStores, shifted_scripts
from tests.stores.state_machine import run
from tests.support.examples import LONG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(24 * 3600 if LONG else 900)]


def test_memory() -> None:
    run(MemoryStores())


def test_sqlite(tmp_path: Path) -> None:
    run(SQLiteStores(tmp_path))


def test_redis(each_redis_url: str) -> None:
    with shifted_scripts():
        run(RedisStores(each_redis_url))
