"""While a slot of a Redis Cluster moves, no script runs that would find a part of its keys (promise 8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from celery_locks.stores.parking import Parked, Ticket
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.cluster import RedisClusterStore
from celery_locks.stores.redis.hash_tags import SLOT_OF, guard_key, lock_keys, tag_of
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.types import Claim, Granted, Refused
from tests.support.clusters import Cluster
from tests.support.servers import RedisServer

pytestmark = pytest.mark.slow

NAME = "p:{moves}"
TAG = tag_of(NAME)
#: Scripts of no single lock.
OVER_ALL = {scripts.PAGE, scripts.STATS, scripts.DUE, scripts.DELETE, scripts.RENEW_MANY}
OF_A_LOCK = {
    name: script for name, script in vars(scripts).items() if isinstance(script, Script) and script not in OVER_ALL
}


def claim(token: str, **options: Any) -> Claim:
    return Claim(NAME, token, f"owner {token}", 60, **options)


@pytest.fixture
def store(redis_cluster: Cluster) -> Iterator[RedisClusterStore]:
    redis_cluster.flush()
    with closing(RedisClusterStore(redis_cluster.url())) as store:
        yield store


def answer(server: RedisServer, script: Script, keys: tuple[str, ...], asking: bool = False) -> str:
    """Return the error of a script, or ``ran``."""
    with server.client() as client:
        if asking:
            client.execute_command("ASKING")
        try:
            client.execute_command("EVALSHA", script.sha, len(keys), *keys, "a", f"{TAG}p:")
        except redis.exceptions.NoScriptError:
            return "ran"
        except redis.RedisError as error:
            return f"{type(error).__name__} {error}"
        return "ran"


def refuses(server: RedisServer, other: RedisServer, script: Script, keys: tuple[str, ...]) -> bool:
    """Return whether neither server runs a script: Redis before 7 sends clients to the other, which refuses."""
    error = answer(server, script, keys)
    if "ask" in error.lower():
        error = answer(other, script, keys, asking=True)
    return "tryagain" in error.lower() or "multiple keys request during rehashing" in error.lower()


def test_promise_08_no_script_runs_while_its_slot_moves(redis_cluster: Cluster, store: RedisClusterStore) -> None:
    """Whichever records there are, and whichever have moved."""
    assert isinstance(store.acquire(claim("a", limit=3)), Granted)
    assert isinstance(store.acquire(claim("b", limit=3, permits=3), line_up=60), Refused)
    assert isinstance(store.enter(claim("c", limit=3), Ticket("t", "message", "task")), Parked)
    store.write(NAME, "a", "text", 60)
    guard = guard_key(f"{TAG}p:")
    keys, lists = lock_keys(TAG, NAME, "p:"), (f"{TAG}p:locks", f"{TAG}p:lines", guard)
    commands = [(script, keys) for script in OF_A_LOCK.values()]
    commands += [(scripts.PAGE, lists), (scripts.STATS, lists), (scripts.DUE, (f"{TAG}p:parked", guard))]
    slot = SLOT_OF[TAG]
    source, target = redis_cluster.begin_move(slot)
    try:
        moved = 0
        while True:
            for script, declared in commands:
                assert refuses(source, target, script, declared), script.text[:1000]
                assert refuses(target, source, script, declared) or "moved" in answer(target, script, declared).lower()
            if not redis_cluster.move_keys(slot, source, target, most=1):
                break
            moved += 1
        assert moved > 5
    finally:
        redis_cluster.end_move(slot, target)
    assert store.release(NAME, "a")
    assert isinstance(store.acquire(claim("b", limit=3, permits=3)), Granted)


def test_promise_08_a_script_of_a_lock_declares_all_keys_that_its_name_gives(store: RedisClusterStore) -> None:
    """What it finds on the way (tokens, tickets) can't be declared."""
    store.acquire(claim("a", limit=2))
    store.acquire(claim("b", limit=2, permits=2), line_up=60)
    store.write(NAME, "a", "text", 60)
    found = store._nodes.of(SLOT_OF[TAG]).for_ttl().call("KEYS", f"{TAG}*")
    names = {key.decode() if isinstance(key, bytes) else key for key in found}
    assert len(names) > 5
    assert names <= set(lock_keys(TAG, NAME, "p:"))
