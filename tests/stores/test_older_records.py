"""Tickets that the version before wrote, which knew no brokers: a rolling upgrade strands none."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_locks.stores import open_store
from celery_locks.stores.parking import Dropped, Parked, Ticket
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.types import Claim, Granted

MAIL, BILLING = "amqp://mail", "redis://billing/0"


def claim(name: str) -> Claim:
    return Claim(name, uuid.uuid4().hex, "owner", 60.0)


def ticket(number: int, broker: str = MAIL) -> Ticket:
    return Ticket(f"t{number}", f"message {number}", f"task {number}", broker=broker)


def ids(dispatches: tuple[Any, ...]) -> list[str]:
    return [dispatch.id for dispatch in dispatches]


class Records:
    """The records of a lock in Redis, changed to what the version before would have written."""

    def __init__(self, url: str, prefix: str) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.prefix, self.name = prefix, f"{prefix}:{{k}}"

    def forget_broker(self, number: int) -> None:
        """Have the ticket as one that was parked before there were brokers."""
        record = f"{self.name}:ticket:t{number}"
        broker = self.client.hget(record, "broker")
        self.client.hdel(record, "broker")
        moment = self.client.zscore(f"{self.name}:due:{broker}", f"t{number}")
        assert moment is not None
        self.client.zrem(f"{self.name}:due:{broker}", f"t{number}")
        self.client.zadd(f"{self.name}:due", {f"t{number}": moment})
        self.client.zrem(f"{self.prefix}:parked:{broker}", self.name)
        self.client.zadd(f"{self.prefix}:parked", {self.name: moment})

    def dispatch(self, number: int) -> None:
        """Have the ticket as if a worker of the version before had dispatched it, and died."""
        self.client.hset(f"{self.name}:ticket:t{number}", mapping={"state": "called", "calls": 1})
        self.client.zadd(f"{self.name}:due", {f"t{number}": 1.0})
        self.client.zadd(f"{self.prefix}:parked", {self.name: 1.0})
        self.client.zrem(f"{self.name}:line", f"ticket:t{number}")
        self.client.zrem(f"{self.name}:alive", f"ticket:t{number}")


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    with closing(RedisStore(redis_url)) as store:
        yield store


@pytest.fixture
def records(redis_url: str) -> Iterator[Records]:
    records = Records(redis_url, f"older-{uuid.uuid4().hex[:8]}")
    yield records
    records.client.close()


def test_a_ticket_without_a_broker_is_dispatched_by_any_sweeper(store: RedisStore, records: Records) -> None:
    holder = claim(records.name)
    assert isinstance(store.acquire(holder), Granted)
    for number in (1, 2):
        assert isinstance(store.enter(claim(records.name), ticket(number)), Parked)
        records.forget_broker(number)
    store.release(records.name, holder.token)
    assert ids(store.sweep(records.prefix, BILLING)) == ["t1"]
    run = claim(records.name)
    assert isinstance(store.enter(run, ticket(1)), Granted)
    assert ids(store.end_run(records.name, run.token, "final", broker=MAIL)[1]) == ["t2"]
    assert store.enter(claim(records.name), ticket(1)) == Dropped("done")


def test_a_sweeper_of_the_version_before_may_look_at_a_dispatched_ticket_without_a_broker(
    store: RedisStore, records: Records
) -> None:
    """It takes a ticket in a state that it does not know from what is due: no sweeper would look at it again."""
    holder = claim(records.name)
    store.acquire(holder)
    store.enter(claim(records.name), ticket(1, ""))
    store.end_run(records.name, holder.token, "final", broker=MAIL)
    known = ("parked", "called", "running", "out", "done")
    assert records.client.hget(f"{records.name}:ticket:t1", "state") in known


def test_a_ticket_that_a_worker_of_the_version_before_dispatched_returns_to_its_broker(
    store: RedisStore, records: Records
) -> None:
    holder = claim(records.name)
    store.acquire(holder)
    store.enter(claim(records.name), ticket(1))
    records.dispatch(1)
    store.release(records.name, holder.token)
    waiting = threading.Thread(target=store.await_due, args=(records.prefix, MAIL, 30.0), daemon=True)
    assert store.sweep(records.prefix, BILLING) == ()
    assert records.client.zscore(f"{records.prefix}:parked", records.name) is None, "the wrong sweeper looks once"
    waiting.start()
    waiting.join(4)
    assert not waiting.is_alive()
    assert ids(store.sweep(records.prefix, MAIL)) == ["t1"]


def test_a_ticket_that_the_version_before_parked_again_is_withdrawn_by_its_broker_only(
    store: RedisStore, records: Records
) -> None:
    store.acquire(claim(records.name))
    store.enter(claim(records.name), ticket(1))
    place = f"{records.prefix}:task:task 1"
    records.client.rename(f"{place}:{MAIL}", place)
    assert store.withdraw(records.prefix, BILLING, "task 1") == ()
    assert ids(store.withdraw(records.prefix, MAIL, "task 1")) == ["t1"]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/locks.db"
    return f"{request.getfixturevalue(f'{request.param}_url')}?table_prefix=older_{uuid.uuid4().hex[:8]}_"


def make_older(url: str) -> None:
    """Take the column from the tables, and write the word that the version before had for a state."""
    states = "UPDATE celery_locks_ticket SET state = 'called' WHERE state = 'dispatched'"
    drop = ["ALTER TABLE celery_locks_ticket DROP COLUMN broker"]
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as db:
            for statement in (states, "DROP INDEX celery_locks_ticket_broker_due", *drop):
                db.execute(statement)
        return
    with closing(open_store(url)) as store:
        index = ["ALTER TABLE celery_locks_ticket DROP INDEX celery_locks_ticket_broker_due"]
        for statement in (states, *(index if url.startswith("mysql") else []), *drop):
            store._database.single(lambda db, statement=statement: db.execute(statement).rowcount)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_tables_of_the_version_before_get_the_column(url: str) -> None:
    name = "p:{k}"
    with closing(open_store(url)) as store:
        holder = claim(name)
        store.acquire(holder)
        for number in (1, 2):
            assert isinstance(store.enter(claim(name), ticket(number)), Parked)  # type: ignore[attr-defined]
        assert ids(store.end_run(name, holder.token, "final", broker=MAIL)[1]) == ["t1"]  # type: ignore[attr-defined]
    make_older(url)
    with closing(open_store(url)) as store:
        assert store.sweep("p", BILLING) == ()  # type: ignore[attr-defined]
        run = claim(name)
        assert isinstance(store.enter(run, ticket(1)), Granted)  # type: ignore[attr-defined]
        assert isinstance(store.enter(claim(name), ticket(3)), Parked)  # type: ignore[attr-defined]
        dispatches = store.end_run(name, run.token, "final", broker=BILLING)[1]  # type: ignore[attr-defined]
        assert ids(dispatches) == ["t2"], "it has no broker, and the third has one"
        run = claim(name)
        assert isinstance(store.enter(run, ticket(2)), Granted)  # type: ignore[attr-defined]
        assert store.end_run(name, run.token, "final", broker=BILLING) == (True, ())  # type: ignore[attr-defined]
        assert ids(store.sweep("p", MAIL)) == ["t3"]  # type: ignore[attr-defined]
