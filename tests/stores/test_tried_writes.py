"""What a tried write leaves behind when its process dies: nothing that a sweeper, a list or a worker ever meets."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from celery_locks import Locks
from celery_locks.keys.names import key_and_part
from celery_locks.stores import open_store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import TRIAL, is_trial, tickets_of
from celery_locks.stores.sql.base import TableStore
from celery_locks.stores.sql.schema import TABLES
from celery_locks.stores.sqlite.store import WRITES_PER_SWEEP
from celery_locks.stores.write_check import TTL_SECONDS, throwaway_name
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)

#: What a trial calls while it parks, in this order; by the name of the store's method and how often it was called.
STEPS = [
    ("park", 1),
    ("waiting", 1),
    ("end_run", 1),
    ("published", 1),
    ("enter", 1),
    ("end_run", 2),
    ("finish", 1),
    ("sweep", 1),
    ("withdraw", 1),
]


def die_after(url: str, prefix: str, method: str, times: int) -> None:
    """Try writes in a child, which is killed by SIGKILL as soon as a method has returned for the n-th time."""
    if (child := os.fork()) == 0:
        try:
            store: Any = open_store(url)
            called, calls = getattr(store, method), iter(range(1, times + 1))

            def call(*args: Any, **options: Any) -> Any:
                answer = called(*args, **options)
                if next(calls) == times:
                    os.kill(os.getpid(), signal.SIGKILL)
                return answer

            setattr(store, method, call)
            store.try_writes(prefix, parks=True)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (method, times)


def assert_nothing_is_met(url: str, prefix: str) -> None:
    """Sweep and count as a worker of the site does."""
    with closing(open_store(url)) as store:
        tickets = tickets_of(store)
        assert tickets is not None
        assert tickets.sweep(prefix, "") == ()
        started = time.monotonic()
        tickets.await_due(prefix, "", 0.2)
        assert time.monotonic() - started > 0.1  # nothing is due that it would return for
        assert tickets.sweep(prefix, "") == ()


def assert_no_waiters(url: str, prefix: str) -> None:
    locks = Locks(url, prefix=prefix)
    try:
        assert locks.stats().waiting == 0
        assert locks.list().items == ()
    finally:
        locks.close()


def kill_after_each_step(url: str, prefix: str) -> float:
    """Return when all trials have died, and nothing of them may be met any more."""
    for step in STEPS:
        die_after(url, prefix, *step)
        assert_nothing_is_met(url, prefix)
    return time.monotonic() + TTL_SECONDS


@pytest.mark.slow
def test_a_doctor_that_dies_on_redis(start_redis: Callable[..., RedisServer]) -> None:
    server, prefix = start_redis(), "site"
    url = server.url()
    end = kill_after_each_step(url, prefix)
    with server.client() as client:
        ttls = {key: client.pttl(key) for key in client.keys("*")}
        assert not {key: ttl for key, ttl in ttls.items() if ttl == -1}
        # What parking keeps is gone within the trial's ttl, by itself.
        records = (":ticket:", ":due", ":line", ":alive", ":runs:", ":task:", ":parked", ":sweep")
        parked = {key: ttl for key, ttl in ttls.items() if any(part in key for part in records) and "lines" not in key}
        assert parked
        assert max(parked.values()) <= TTL_SECONDS * 1000
        assert not client.exists(f"{prefix}:parked", f"{prefix}:sweep")
        eventually(lambda: not client.exists(*parked), TTL_SECONDS + 5, "tickets are left")
    time.sleep(max(0.0, end - time.monotonic()))
    assert_nothing_is_met(url, prefix)
    assert_no_waiters(url, prefix)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_a_doctor_that_dies_on_a_database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/l.db"
    else:
        url = f"{request.getfixturevalue(f'{kind}_url')}?table_prefix=dies_{os.getpid()}_"
    with closing(open_store(url)) as store:
        store.ping()
    end = kill_after_each_step(url, "site")
    time.sleep(max(0.0, end - time.monotonic()))
    assert_nothing_is_met(url, "site")
    assert_no_waiters(url, "site")
    with closing(cast(TableStore, open_store(url))) as tables:
        # The ordinary sweep of rows whose time is over takes those of the dead away, too.
        if kind == "sqlite":
            for _ in range(WRITES_PER_SWEEP * len(TABLES)):  # each table in its turn
                tables.ping()
        else:
            tables._sweeper.sweep()  # type: ignore[attr-defined]
        for table in ("waiter", "ticket", "value", "task"):
            query = f"SELECT count(*) FROM celery_locks_{table}"
            assert tables._read("", lambda session, query=query: session.execute(query).fetchone()[0]) == 0  # type: ignore[misc]


def test_no_key_of_a_user_has_the_name_of_a_trial() -> None:
    name = throwaway_name("site")
    assert is_trial(name)
    locks = Locks(MemoryStore(), prefix="site")
    for key in ("celery-locks-doctor:1", f"x:{TRIAL}1", TRIAL, TRIAL[1:], TRIAL[2:], "}" + TRIAL, uuid.uuid4().hex):
        assert not is_trial(locks._space.name(key)), key
    assert key_and_part(name)[0].startswith("celery-locks-doctor:")
