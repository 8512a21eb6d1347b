"""Fixtures that tests of several stores use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the Redis that stores of `redis_url` use; it decodes answers."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as made:
        yield made
