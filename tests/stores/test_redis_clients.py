"""Clients of redis-py and valkey-py with other settings: the answers of each kind are read whatever their form is.

The whole compliance suite runs once for each kind of server, by a URL.
"""

from __future__ import annotations

import pytest
import redis
import valkey

from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.redis.store import RedisStore
from tests.stores.compliance_stores import AnswersOfEachKind


class OfAClient(AnswersOfEachKind):
    @pytest.fixture
    def another(self, store: Store, redis_url: str) -> Store:
        return RedisStore(redis_url)


@pytest.mark.slow
class TestProtocol2ThatDecodes(OfAClient):
    @pytest.fixture
    def store(self, redis_url: str) -> Store:
        return RedisStore(redis.Redis.from_url(redis_url, decode_responses=True, protocol=2))


@pytest.mark.slow
class TestProtocol3(OfAClient):
    @pytest.fixture
    def store(self, redis_url: str) -> Store:
        return RedisStore(redis.Redis.from_url(redis_url, protocol=3))


@pytest.mark.slow
class TestProtocol3ThatDecodes(OfAClient):
    @pytest.fixture
    def store(self, redis_url: str) -> Store:
        return RedisStore(redis.Redis.from_url(redis_url, protocol=3, decode_responses=True))


@pytest.mark.slow
class TestValkeysOwnClient(AnswersOfEachKind):
    @pytest.fixture
    def store(self, redis_url: str) -> Store:
        return RedisStore(valkey.Valkey.from_url(redis_url, protocol=3, decode_responses=True))

    @pytest.fixture
    def another(self, store: Store, redis_url: str) -> Store:
        return open_store(redis_url.replace("redis://", "valkey://"))
