"""What a Redis or Valkey is warned of, on real servers set up so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from celery_locks import StoreUnavailable
from celery_locks.stores.check_results import merge
from celery_locks.stores.redis import checks
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.redis.wire.connections import Connections
from tests.support.servers import RedisServer

Start = Callable[..., RedisServer]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl", "noeviction"])
def test_promise_22_a_policy_that_evicts_leases_is_warned_of(start_redis: Start, policy: str) -> None:
    server = start_redis(maxmemory_policy=policy, options={"maxmemory": "100mb"})
    found = RedisStore(server.url()).warnings()
    if policy == "noeviction":
        assert not found
    else:
        assert len(found) == 1
        assert f"maxmemory-policy {policy}" in found[0]
        assert "Set maxmemory-policy noeviction" in found[0]


def test_a_policy_without_a_limit_evicts_nothing(start_redis: Start) -> None:
    assert not RedisStore(start_redis(maxmemory_policy="allkeys-lru").url()).warnings()


@pytest.mark.parametrize(
    ("options", "lasts"),
    [({"save": '""'}, False), ({"save": "60 1"}, True), ({"save": '""', "appendonly": "yes"}, True)],
)
def test_parked_tasks_want_a_store_that_lasts(start_redis: Start, options: dict[str, str], lasts: bool) -> None:
    store = RedisStore(start_redis(options=options).url())
    assert not store.warnings()
    assert ["keeps nothing on disk" in warning for warning in store.warnings(parks=True)] == [True] * (not lasts)


@pytest.mark.parametrize("forbidden", ["-config", "-config -info", "-config -info -time"])
def test_what_is_forbidden_is_not_warned_of(start_redis: Start, forbidden: str) -> None:
    server = start_redis(
        users={"careful": f"on >secret ~* &* +@all {forbidden}"},
        maxmemory_policy="allkeys-lru",
        options={"maxmemory": "100mb", "save": '""'},
    )
    store = RedisStore(server.url(user="careful", password="secret"))
    found = store.warnings(parks=True)
    assert ["evicts" in warning for warning in found] == [True] * ("-info" not in forbidden)
    results = store.checks(parks=True)
    command = "INFO" if "-info" in forbidden else "CONFIG GET"
    assert results["persistence"] == f"not known: this user may not run {command}"
    assert results["clock"] == ("not known: this user may not run TIME" if "-time" in forbidden else "")
    for check in ("version", "eviction"):
        assert (results[check] == "not known: this user may not run INFO") == ("-info" in forbidden)


def test_what_a_server_does_not_report_is_not_known() -> None:
    answers = {"INFO": "redis_version:unstable\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n", "CONFIG": []}
    found = checks.checks(lambda *command: answers.get(command[0], [0, 0]), parks=True)
    assert found["version"] == "not known: the server reports the version 'unstable'"
    assert found["eviction"] == "not known: the server does not report maxmemory"
    assert found["persistence"] == "not known: the server does not report its save points"


def test_a_command_that_the_server_does_not_have(start_redis: Start) -> None:
    store = RedisStore(start_redis(options={"rename-command": 'CONFIG ""', "save": '""'}).url())
    assert "the server refuses CONFIG GET: unknown command" in store.checks(parks=True)["persistence"]


@pytest.mark.parametrize(
    ("results", "merged"),
    [
        (["", ""], ""),
        (["", "not known: x"], "not known: x"),
        (["not known: x", "it evicts", "it evicts", "too old"], "it evicts; too old"),
    ],
)
def test_a_warning_of_one_server_is_not_hidden_by_what_is_not_known_of_others(results: list[str], merged: str) -> None:
    assert merge({"check": result} for result in results) == {"check": merged}


@pytest.mark.parametrize(("ahead", "said"), [(60, "ahead of"), (-3600, "behind"), (0, "")])
def test_promise_22_a_clock_far_off_is_warned_of(redis_server: RedisServer, ahead: int, said: str) -> None:
    client = Connections(redis.Redis.from_url(redis_server.url()), "server").for_ttl()

    def call(*command: Any) -> Any:
        """The server as it is, but for its clock: that of the machine can't be set."""
        answer = client.call(*command)
        return [int(answer[0]) + ahead, answer[1]] if command == ("TIME",) else answer

    found = checks.checks(call, parks=False)
    assert (f"{said} this machine's" in found["clock"]) if said else not found["clock"]


def test_a_store_that_is_away_can_not_be_asked(start_redis: Start) -> None:
    server = start_redis()
    store = RedisStore(server.url())
    server.stop()
    with pytest.raises(StoreUnavailable):
        store.warnings()
