"""The locks that Python's users would take instead."""

from __future__ import annotations

import redis
from redis.lock import Lock as RedisPyLock

from benchmarks.sides.limits import Pair
from celery_locks import Locks


def ours(url: str, key: str) -> Pair:
    locks = Locks(url)

    def pair() -> None:
        with locks.lock(key, ttl=60):
            pass

    return pair


def redis_py(url: str, key: str) -> Pair:
    client = redis.Redis.from_url(url)

    def pair() -> None:
        with RedisPyLock(client, key, timeout=60):
            pass

    return pair


def python_redis_lock(url: str, key: str) -> Pair:
    import redis_lock

    client = redis.StrictRedis.from_url(url)

    def pair() -> None:
        with redis_lock.Lock(client, key, expire=60):
            pass

    return pair


def python_redis_lock_renewed(url: str, key: str) -> Pair:
    """With a thread that renews it, as ours are."""
    import redis_lock

    client = redis.StrictRedis.from_url(url)

    def pair() -> None:
        with redis_lock.Lock(client, key, expire=60, auto_renewal=True):
            pass

    return pair


def sherlock(url: str, key: str) -> Pair:
    from sherlock import RedisLock

    client = redis.StrictRedis.from_url(url)

    def pair() -> None:
        with RedisLock(key, client=client, expire=60, timeout=5):
            pass

    return pair


def pottery(url: str, key: str) -> Pair:
    from pottery import Redlock

    masters = {redis.Redis.from_url(url)}

    def pair() -> None:
        with Redlock(key=key, masters=masters, auto_release_time=60):
            pass

    return pair


SIDES = {
    "celery-locks": ours,
    "redis-py Lock": redis_py,
    "python-redis-lock": python_redis_lock,
    "python-redis-lock, renewed": python_redis_lock_renewed,
    "sherlock": sherlock,
    "pottery Redlock": pottery,
}
