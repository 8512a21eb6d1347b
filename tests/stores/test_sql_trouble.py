"""The stores in database servers when rows are blocked, replies get lost, clocks are set back, or tables are old."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import pytest

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.stores import open_store, schema_sql
from celery_locks.stores.parking import Parked, Ticket
from celery_locks.stores.sql import function_texts, listing, sweeper
from celery_locks.stores.sql.clock import raise_clock
from celery_locks.stores.sql.dialects import Connection
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.store import ServerStore
from celery_locks.stores.types import Granted, Refused, Renewal, Value
from tests.stores.test_sql import (
    SOON,
    ask,
    claim,
    expire,
    granted,
    lost_replies,
    open_,
    postgresql,
    prefix,
    server,
    tell,
    url,
)
from tests.support.sql_servers import DatabaseServer, PostgresServer
from tests.support.waiting import eventually

__all__ = ["open_", "postgresql", "prefix", "server", "url"]

HOUR = 3_600_000_000


@contextmanager
def blocked(server: DatabaseServer, store: ServerStore, query: str, *values: Any) -> Iterator[None]:
    """Another transaction has some rows."""
    query = store._database.dialect.text(query)
    if isinstance(server, PostgresServer):
        with psycopg.connect(server.url()) as db:
            db.execute(query, values)  # type: ignore[arg-type]
            yield
            db.rollback()
        return
    parts = urlsplit(server.url())
    login = {"user": parts.username, "password": unquote(parts.password or ""), "database": "locks"}
    with pymysql.connect(host=parts.hostname, port=parts.port or 0, **login) as db, db.cursor() as cursor:
        cursor.execute(query, [value.encode() for value in values])
        yield
        db.rollback()


def runs(store: ServerStore, prefix: str) -> bool:
    """Whether another session of the server runs a statement on the tables with a prefix: it may wait for a row."""
    if "postgresql" in store.name:
        query = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE ? AND pid <> pg_backend_pid()"
    else:
        query = "SELECT 1 FROM information_schema.processlist WHERE info LIKE ? AND id <> connection_id()"
    return bool(ask(store, query, f"%{prefix}%"))


class TestBlockedRows:
    def test_promise_37_one_blocked_row_loses_no_other_lease(
        self, server: DatabaseServer, url: str, open_: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(ServerStore, "batch", 10)
        store, leases = open_(url), [claim(f"n{number:02}") for number in range(25)]
        for lease in leases:
            granted(store, lease)
        renewals = [Renewal(lease.name, lease.token, 2.0) for lease in leases]
        with blocked(server, store, "SELECT 1 FROM celery_locks_lock WHERE name = ? FOR UPDATE", "n03"):
            began = time.monotonic()
            answers = store.renew(renewals)
            assert time.monotonic() - began < 2.0
        assert answers == [None] * 3 + ["unreachable"] + [None] * 21
        assert store.renew(renewals) == [None] * 25

    def test_a_row_that_is_blocked_for_a_moment_is_waited_for(
        self, server: DatabaseServer, url: str, open_: Any
    ) -> None:
        store, leases = open_(url), [claim("a"), claim("b")]
        for lease in leases:
            granted(store, lease)
        with blocked(server, store, "SELECT 1 FROM celery_locks_lock WHERE name = ? FOR UPDATE", "a"):
            answers: list[Any] = []
            renewals = [Renewal(lease.name, lease.token, 60.0) for lease in leases]
            renews = threading.Thread(target=lambda: answers.append(store.renew(renewals)), daemon=True)
            renews.start()
            time.sleep(0.2)  # it has come to wait for the row
        renews.join(SOON)
        assert answers == [[None, None]]

    def test_each_lease_has_its_own_answer(self, url: str, open_: Any) -> None:
        store, names = open_(url), ("held", "stolen", "deleted", "expired")
        claims = {name: claim(name, ttl=60.0) for name in names}
        for each in claims.values():
            granted(store, each)
        store.release("stolen", claims["stolen"].token)
        granted(store, claim("stolen"))
        store.release("deleted", claims["deleted"].token)
        expire(store, "expired")
        renewals = [Renewal(each.name, each.token, 60.0) for each in claims.values()]
        assert store.renew(renewals) == [None, "stolen", "deleted", "expired"]
        assert store.renew([Renewal("unknown", "x", 60.0)]) == ["deleted"]
        assert store.renew([]) == []

    @pytest.mark.parametrize("table", ["lock", "holder"])
    def test_a_sweep_passes_over_blocked_rows(
        self, server: DatabaseServer, url: str, open_: Any, monkeypatch: Any, table: str
    ) -> None:
        monkeypatch.setattr(sweeper, "MOST_ROWS_SWEPT", 10)
        store = open_(url)
        for number in range(5):
            granted(store, claim(f"{number}"))
            assert isinstance(store.acquire(claim(f"{number}"), 0.001), Refused)
        expire(store)
        tell(store, "UPDATE celery_locks_lock SET forget_at = 1")
        with blocked(server, store, f"SELECT 1 FROM celery_locks_{table} WHERE name = ? FOR UPDATE", "3"):
            store._sweeper.sweep()
            assert ask(store, f"SELECT name FROM celery_locks_{table}") == [("3",)]
        store._sweeper.sweep()
        store._sweeper.sweep()
        assert ask(store, f"SELECT name FROM celery_locks_{table}") == []

    def test_nothing_is_granted_to_a_client_that_has_gone(
        self, postgresql_server: PostgresServer, postgresql: str, open_: Any
    ) -> None:
        """Several wait for one row, each longer than one timeout of the server."""
        stores = [open_(postgresql) for _ in range(3)]
        answers: dict[int, type] = {}
        for each in stores:
            each.ping()
        first = claim(ttl=2.0)
        granted(stores[0], first)
        assert stores[0].release("lock", first.token)
        claims = [claim(ttl=2.0) for _ in stores]  # each waits for half a second

        def request(number: int) -> None:
            time.sleep(0.15 * number)
            try:
                answers[number] = type(stores[number].acquire(claims[number]))
            except StoreUnavailable as error:
                answers[number] = type(error)

        threads = [threading.Thread(target=request, args=(number,), daemon=True) for number in range(3)]
        with blocked(postgresql_server, stores[0], "SELECT 1 FROM celery_locks_lock WHERE name = ? FOR UPDATE", "lock"):
            for thread in threads:
                thread.start()
            time.sleep(0.7)
        for thread in threads:
            thread.join(SOON)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        eventually(lambda: ask(stores[0], waiting) == [(0,)], SOON)
        held = [holder.token for holder in stores[0].holders("lock")]
        assert [number for number, each in enumerate(claims) if each.token in held and answers[number] != Granted] == []


class TestRepeats:
    def test_promise_35_a_repeated_release_that_finds_nothing_counts(self, url: str, open_: Any) -> None:
        store, mine = open_(url), claim()
        granted(store, mine)
        with lost_replies(store) as lost:
            assert store.release("lock", mine.token)
        assert lost
        assert not store.release("lock", mine.token)
        with lost_replies(store) as lost:
            assert store.release("lock", "no one's"), "what can't be known was reported as a loss"
        assert lost

    def test_promise_35_a_repeated_force_release_spares_the_next_holder(self, url: str, open_: Any) -> None:
        store, mine, other = open_(url), claim(), claim()
        granted(store, mine)
        with lost_replies(store, lambda: granted(store, other)) as lost:
            released = store.force_release("lock")
        assert lost
        assert [holder.token for holder in released] == [mine.token]
        assert [holder.token for holder in store.holders("lock")] == [other.token]

    def test_promise_35_a_repeated_replacement_takes_nothing_back(self, url: str, open_: Any) -> None:
        store, mine, other = open_(url), claim(replaces=True), claim(replaces=True)
        granted(store, claim())
        with lost_replies(store, lambda: granted(store, other)) as lost:
            answer = store.acquire(mine)
        assert lost
        assert isinstance(answer, Refused)
        assert answer.replaced
        assert [holder.token for holder in store.holders("lock")] == [other.token]

    def test_promise_35_a_repeated_acquire_after_a_force_release_is_granted(self, url: str, open_: Any) -> None:
        store, mine, before = open_(url), claim(), claim()
        granted(store, before)
        assert store.release("lock", before.token)
        with lost_replies(store, lambda: store.force_release("lock")) as lost:
            granted(store, mine)
        assert lost
        assert [holder.token for holder in store.holders("lock")] == [mine.token]

    def test_promise_35_a_late_acquire_grants_nothing(self, url: str, open_: Any) -> None:
        store, mine = open_(url), claim()
        granted(store, mine)
        assert store.release("lock", mine.token)
        assert isinstance(store.acquire(mine), Refused)
        assert isinstance(store.acquire(mine, 60.0), Refused)
        assert store.waiting("lock") == 0
        assert isinstance(store.enter(mine, Ticket("t", "message", "task")), Parked)
        assert store.holders("lock") == ()
        assert store.waiting("lock") == 0

    def test_promise_35_a_repeated_deletion_spares_a_later_value(self, url: str, open_: Any) -> None:
        store, mine = open_(url), claim()
        granted(store, mine)
        assert store.write("lock", mine.token, "old", 60.0)
        with lost_replies(store, lambda: store.write("lock", mine.token, "new", 70.0)) as lost:
            assert store.delete("lock")
        assert lost
        assert store.value("lock") == "new"
        assert store.delete("lock")
        assert not store.delete("lock")


class TestClock:
    def test_promise_41_a_clock_that_was_set_back_keeps_no_dead_holder(self, url: str, open_: Any) -> None:
        store, dead = open_(url), claim(ttl=0.5)
        granted(store, old := claim())
        assert store.release("lock", old.token)
        tell(store, "UPDATE celery_locks_lock SET touched = touched + ?", HOUR)  # as if it had been an hour ahead
        granted(store, dead)
        eventually(lambda: store.holders("lock") == (), 5.0)
        granted(store, claim(ttl=0.5))
        granted(store, other := claim("another", ttl=0.5))
        assert store.renew([Renewal("another", other.token, 0.5)]) == [None]
        eventually(lambda: store.holders("another") == (), 5.0)

    @pytest.mark.parametrize("waits", [False, True])
    def test_promise_41_leases_acquired_since_then_live_on(self, url: str, open_: Any, waits: bool) -> None:
        """Whoever uses a lock from before puts the store's clock forward, and no other lease ends early by that."""
        store, other, before, waiter = open_(url), open_(url), claim("before"), claim()
        granted(store, before)
        tell(store, "UPDATE celery_locks_lock SET touched = touched + ?, deadline = 1", HOUR)
        granted(store, mine := claim())
        if waits:
            assert isinstance(store.acquire(waiter, 60.0), Refused)
        granted(other, claim("before"))
        [(ahead,)] = ask(store, "SELECT ahead FROM celery_locks_meta")
        assert ahead > HOUR - 60_000_000
        [holder] = store.holders("lock")
        assert holder.token == mine.token
        assert 30.0 < holder.expires_in <= 60.0
        assert isinstance(other.acquire(claim()), Refused)
        assert store.renew([Renewal("lock", mine.token, 60.0), Renewal("before", before.token, 60.0)])[0] is None
        assert store.waiting("lock") == waits
        assert store.release("lock", mine.token)
        granted(other, waiter if waits else claim())

    def test_promise_41_renewing_finds_it_too(self, url: str, open_: Any) -> None:
        store, mine = open_(url), claim(ttl=60.0)
        granted(store, mine)
        for table, column in (("lock", "touched"), ("lock", "deadline")):
            tell(store, f"UPDATE celery_locks_{table} SET {column} = {column} + ?", HOUR)
        assert store.renew([Renewal("lock", mine.token, 60.0)]) == [None]
        [(ahead,)] = ask(store, "SELECT ahead FROM celery_locks_meta")
        assert HOUR - 10_000_000 < ahead <= HOUR
        assert store.renew([Renewal("lock", mine.token, 60.0)]) == [None]
        assert ask(store, "SELECT ahead FROM celery_locks_meta") == [(ahead,)]

    @pytest.mark.parametrize("how", ["acquire", "share", "park"])
    def test_promise_41_a_lease_of_a_new_lock_lives_on(self, url: str, prefix: str, open_: Any, how: str) -> None:
        """Its row is inserted while the store's clock is put forward, so that the row could not be locked before."""
        store, other, mine = open_(url), open_(url), claim("new", limit=2 if how == "share" else 1)
        granted(store, claim("before"))
        tell(store, "UPDATE celery_locks_lock SET touched = touched + ?, deadline = 1", HOUR)
        raised, go_on = threading.Event(), threading.Event()

        def put_forward(db: Connection) -> None:
            raise_clock(db)
            raised.set()
            assert go_on.wait(SOON)

        def acquire() -> None:
            if how == "park":
                answers.append(other.enter(mine, Ticket("t", "message", "task")))
            else:
                answers.append(other._acquire_in_transaction(mine, None) if how == "share" else other.acquire(mine))

        answers: list[Any] = []
        raises = threading.Thread(target=lambda: store._database.transaction(put_forward), daemon=True)
        acquires = threading.Thread(target=acquire, daemon=True)
        other.ping()
        raises.start()
        assert raised.wait(SOON)
        acquires.start()
        eventually(lambda: not acquires.is_alive() or runs(store, prefix))
        go_on.set()
        for thread in (raises, acquires):
            thread.join(SOON)
        assert isinstance(answers[0], Granted)
        [holder] = store.holders("new")
        assert 30.0 < holder.expires_in <= 60.0
        assert other.renew([Renewal("new", mine.token, 60.0)]) == [None]

    def test_promise_41_a_raise_waits_for_a_lock_that_is_being_made(self, url: str, prefix: str, open_: Any) -> None:
        store, other, mine = open_(url), open_(url), claim("new")
        granted(store, claim("before"))
        tell(store, "UPDATE celery_locks_lock SET touched = touched + ?, deadline = 1", HOUR)
        opened, go_on = threading.Event(), threading.Event()

        def work(session: Any) -> Any:
            opened.set()
            assert go_on.wait(SOON)
            return Leases(session).acquire(mine, None)

        acquires = threading.Thread(target=lambda: other._write("new", work), daemon=True)
        raises = threading.Thread(target=lambda: store._database.transaction(raise_clock), daemon=True)
        acquires.start()
        assert opened.wait(SOON)
        raises.start()
        eventually(lambda: not raises.is_alive() or runs(store, prefix))
        go_on.set()
        for thread in (raises, acquires):
            thread.join(SOON)
        assert ask(store, "SELECT ahead FROM celery_locks_meta")[0][0] > HOUR - 60_000_000
        [holder] = store.holders("new")
        assert 30.0 < holder.expires_in <= 60.0

    def test_promise_33_a_request_waits_for_the_raise_within_its_timeout(self, url: str, open_: Any) -> None:
        """The raise goes on nonetheless. Otherwise no request could ever finish one that takes long."""
        store = open_(url)
        granted(store, claim("before"))
        tell(store, "UPDATE celery_locks_lock SET touched = touched + ?, deadline = 1", HOUR)
        go_on, tries, raise_ = threading.Event(), 0, store._database._clock_raise._call

        def slowly() -> None:
            nonlocal tries
            tries += 1
            assert go_on.wait(SOON)
            raise_()

        store._database._clock_raise._call = slowly
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.5 s"):
                store.acquire(claim("before", ttl=2.0))
            assert time.monotonic() - began < SOON / 2
        go_on.set()
        eventually(lambda: ask(store, "SELECT ahead FROM celery_locks_meta")[0][0] > HOUR - 60_000_000, SOON)
        granted(store, claim("before"))
        assert tries == 1

    def test_a_raise_that_fails_fails_the_requests_that_wait(self, url: str, open_: Any) -> None:
        store = open_(url)
        granted(store, claim("before"))
        tell(store, "UPDATE celery_locks_lock SET touched = touched + ?, deadline = 1", HOUR)
        raise_ = store._database._clock_raise._call

        def fail() -> None:
            raise StoreUnavailable("no rights")

        store._database._clock_raise._call = fail
        with pytest.raises(StoreUnavailable, match="no rights"):
            store.acquire(claim("before"))
        store._database._clock_raise._call = raise_
        granted(store, claim("before"))

    @pytest.mark.parametrize("shared", [False, True])
    def test_a_raised_clock_changes_no_duration_that_is_displayed(self, url: str, open_: Any, shared: bool) -> None:
        store = open_(url)
        granted(store, claim("before"))
        tell(store, "UPDATE celery_locks_lock SET touched = touched + ?, deadline = 1", HOUR)
        granted(store, claim(limit=2))
        if shared:
            granted(store, claim(limit=2))
        store._database.transaction(raise_clock)
        assert ask(store, "SELECT ahead FROM celery_locks_meta")[0][0] > HOUR - 60_000_000
        assert [holder.held_for < 60.0 for holder in store.holders("lock")] == [True] * (1 + shared)
        assert store.stats("", 1.0).oldest_held_for < 60.0


class TestOlderTables:
    def test_promise_45_tables_without_a_version_are_brought_up_to_date(self, url: str, open_: Any) -> None:
        first, mine = open_(url), claim()
        granted(first, mine)
        for column in ("ahead", "version", "oldest"):
            tell(first, f"ALTER TABLE celery_locks_meta DROP COLUMN {column}")
        store = open_(url)
        assert store.renew([Renewal("lock", mine.token, 60.0)]) == [None]
        assert store.release("lock", mine.token)

    def test_promise_45_the_statements_of_an_upgrade(self, url: str, open_: Any) -> None:
        first = open_(url)
        granted(first, claim())
        for column in ("ahead", "version", "oldest"):
            tell(first, f"ALTER TABLE celery_locks_meta DROP COLUMN {column}")
        upgrade = schema_sql(url, upgrade=True)
        assert "CREATE TABLE" not in upgrade
        for _ in range(2):  # safe to run again
            for statement in upgrade.split(";\n"):
                if statement.strip():
                    first._database._repeat(lambda db, s=statement: db.run(s), 10.0, set())  # type: ignore[misc]
        store = open_(url)
        store._database.make_schema = lambda: pytest.fail("it was up to date")  # type: ignore[method-assign]
        granted(store, claim("another"))

    def test_promise_45_newer_tables_say_so(self, url: str, open_: Any) -> None:
        open_(url).ping()
        tell(open_(url), "UPDATE celery_locks_meta SET version = 9, oldest = 9")
        with pytest.raises(StoreUnavailable, match=r"version 9.*Upgrade celery-locks"):
            open_(url).ping()

    def test_promise_45_a_table_that_lacks_a_column_names_the_remedy(self, url: str, open_: Any) -> None:
        open_(url).ping()
        tell(open_(url), "ALTER TABLE celery_locks_lock DROP COLUMN watched")
        with pytest.raises(StoreUnavailable, match="locks sql --upgrade"):
            open_(url).acquire(claim())

    @pytest.mark.parametrize("constant", ["MOST_HOLDERS", "SET_BACK", "COARSE_BITS", "CLOCK"])
    def test_promise_45_functions_are_named_after_their_constants(self, monkeypatch: Any, constant: str) -> None:
        names = [function_texts.function_name(each) for each in function_texts.NAMES]
        monkeypatch.setattr(function_texts, constant, f"{getattr(function_texts, constant)}0")
        for cached in (function_texts._texts, function_texts._version):
            cached.cache_clear()
        try:
            assert not set(names) & {function_texts.function_name(each) for each in function_texts.NAMES}
        finally:
            monkeypatch.undo()
            for cached in (function_texts._texts, function_texts._version):
                cached.cache_clear()


class TestNumbersAndNames:
    def test_promise_39_limits(self, url: str, open_: Any) -> None:
        store = open_(url)
        granted(store, claim(limit=2**53, permits=2**53 - 1))
        granted(store, claim(limit=2**53))
        assert isinstance(store.acquire(claim(limit=2**53)), Refused)
        with pytest.raises(LockConfigError, match="at most 9007199254740992"):
            store.acquire(claim(limit=2**53 + 1))
        with pytest.raises(LockConfigError, match="2\\^53"):
            store.enter(claim(limit=2**63), Ticket("t", "message", "task"))

    @pytest.mark.parametrize("prefix_of_names", ["cafe", "café", "🧀:x"])
    def test_prefixes(self, url: str, open_: Any, prefix_of_names: str) -> None:
        store = open_(url)
        name = Locks(store, prefix=prefix_of_names)._space.name("key")
        holder = claim(name)
        granted(store, holder)
        store.enter(claim(name), Ticket("t1", "first", "task1"))
        store.enter(claim(name), Ticket("t2", "second", "task2"))
        assert [each.message for each in store.withdraw(prefix_of_names, "", "task2")] == ["second"]
        assert store.withdraw(prefix_of_names + "x", "", "task1") == ()
        store.release(name, holder.token)
        assert [each.message for each in store.sweep(prefix_of_names, "")] == ["first"]

    def test_the_last_character(self, url: str, open_: Any) -> None:
        locks = Locks(open_(url))
        keys = ["a", "a\U0010ffffb", "a\U0010ffff", "\ud7ffz", "\U0010ffffa", "\U0010ffff"]
        for key in keys:
            locks.lock(key, renew=False).acquire()
        assert [item.key for item in locks.list(count=100).items] == keys
        assert [item.key for item in locks.list("a\U0010ffff", count=100).items] == keys[1:3]
        assert [item.key for item in locks.list("\ud7ff", count=100).items] == keys[3:4]


class TestFigures:
    def hold_some(self, store: ServerStore) -> None:
        for number in range(7):
            name = f"p:{{k{number}}}"
            granted(store, claim(name, limit=2))
            if number % 3 == 0:
                granted(store, claim(name, limit=2))
                assert isinstance(store.acquire(claim(name, limit=2), 60.0), Refused)
        granted(store, free := claim("p:{k3a}"))
        assert store.release("p:{k3a}", free.token)
        granted(store, claim("p2:{other}"))

    @pytest.mark.parametrize("size", [1, 2, 4, 8, 9])
    def test_the_parts_make_the_whole(self, url: str, open_: Any, monkeypatch: Any, size: int) -> None:
        store = open_(url)
        store._figures_seconds = SOON
        self.hold_some(store)
        monkeypatch.setattr(listing, "FIRST_ROWS_OF_PART", size)
        stats = store.stats("p", 3600.0)
        assert (stats.locks, stats.holders, stats.near_expiry, stats.waiting) == (7, 10, 10, 3)
        assert (stats.oldest_name, stats.complete) == ("p:{k0}", True)

    def test_when_time_is_up_the_figures_are_lower_bounds(self, url: str, open_: Any, monkeypatch: Any) -> None:
        store = open_(url)
        store._figures_seconds = 0.0
        self.hold_some(store)
        monkeypatch.setattr(listing, "FIRST_ROWS_OF_PART", 2)
        stats = store.stats("p", 3600.0)
        assert (stats.locks, stats.holders, stats.waiting, stats.complete) == (2, 3, 1, False)


class TestLines:
    def test_a_full_line_takes_no_more(self, url: str, open_: Any) -> None:
        store = open_(url)
        granted(store, claim())
        waiters = [claim(max_waiters=2) for _ in range(3)]
        answers = [store.acquire(each, 60.0) for each in waiters]
        assert [(each.full, each.position) for each in answers] == [(False, 0), (False, 1), (True, None)]
        again = store.acquire(waiters[1], 60.0)
        assert (again.full, again.position) == (False, 1)
        assert store.waiting("lock") == 2

    def test_a_place_is_kept_behind_others_without_the_row(self, server: DatabaseServer, url: str, open_: Any) -> None:
        if isinstance(server, PostgresServer):
            pytest.skip("one function does it there")
        store, waiters = open_(url), [claim() for _ in range(3)]
        granted(store, claim())
        for waiter in waiters:
            assert isinstance(store.acquire(waiter, 1.0), Refused)
        with blocked(server, store, "SELECT 1 FROM celery_locks_lock WHERE name = ? FOR UPDATE", "lock"):
            assert [store.acquire(each, 60.0).position for each in waiters[1:]] == [1, 2]
        time.sleep(1.1)
        assert store.waiting("lock") == 2
        assert store.acquire(waiters[1], 60.0).position == 0

    def test_a_place_that_expires_while_its_row_is_blocked_is_lost(
        self, server: DatabaseServer, url: str, open_: Any
    ) -> None:
        if isinstance(server, PostgresServer):
            pytest.skip("it locks the lock's row there")
        store, other, waiters = open_(url), open_(url), [claim(ttl=300.0) for _ in range(3)]
        store._database.timeout = SOON  # it waits for the row that long
        granted(store, claim())
        for waiter, seconds in zip(waiters, (60.0, 1.0, 60.0), strict=True):
            assert isinstance(store.acquire(waiter, seconds), Refused)
        answers: list[Any] = []
        keeps = threading.Thread(target=lambda: answers.append(store.acquire(waiters[1], 60.0)), daemon=True)
        with blocked(server, store, "SELECT 1 FROM celery_locks_waiter WHERE token = ? FOR UPDATE", waiters[1].token):
            keeps.start()
            eventually(lambda: other.waiting("lock") == 2, SOON)
        keeps.join(SOON)
        assert answers[0].position == 2

    def test_a_place_whose_confirmation_is_committed_too_late_is_lost(
        self, server: DatabaseServer, url: str, open_: Any, monkeypatch: Any
    ) -> None:
        if isinstance(server, PostgresServer):
            pytest.skip("it locks the lock's row there")
        store, waiters, execute = open_(url), [claim(ttl=300.0) for _ in range(3)], Connection.execute
        store._database.timeout = SOON
        granted(store, claim())
        for waiter, seconds in zip(waiters, (60.0, 1.0, 60.0), strict=True):
            assert isinstance(store.acquire(waiter, seconds), Refused)
        [(deadline,)] = ask(store, "SELECT deadline FROM celery_locks_waiter WHERE token = ?", waiters[1].token)

        def slowly(self: Connection, query: str, values: Any = ()) -> Any:
            answer = execute(self, query, values)
            if query.startswith("UPDATE celery_locks_waiter"):
                eventually(lambda: execute(self, "SELECT CLOCK").fetchone()[0] > deadline, SOON)
            return answer

        monkeypatch.setattr(Connection, "execute", slowly)
        assert store.acquire(waiters[1], 60.0).position == 2

    def test_what_is_released_goes_to_the_next(self, url: str, open_: Any) -> None:
        store, mine, waiter = open_(url), claim(limit=3, permits=3), claim(limit=3, permits=2)
        granted(store, mine)
        assert isinstance(store.acquire(waiter, 60.0), Refused)
        assert store.shrink("lock", mine.token, 1)
        assert store.shrink("lock", mine.token, 1)
        assert store.shrink("lock", mine.token, 2)
        assert store.held("lock") == 1
        granted(store, waiter)
        assert not store.shrink("lock", "no one's", 1)

    @pytest.mark.parametrize("parked", [False, True])
    def test_a_value_is_kept_with_the_release(self, url: str, open_: Any, parked: bool) -> None:
        store, mine = open_(url), claim()
        granted(store, mine)
        if parked:  # the long way
            assert isinstance(store.enter(claim(), Ticket("t", "message", "task")), Parked)
        assert not store.release("lock", "no one's", Value("1", 60.0))
        assert store.value("lock") is None
        assert store.release("lock", mine.token, Value("2", 60.0))
        assert store.value("lock") == "2"

    def test_a_value_is_kept_with_the_end_of_a_run(self, url: str, open_: Any) -> None:
        store, mine = open_(url), claim()
        granted(store, mine)
        assert store.end_run("lock", mine.token, "final", broker="", value=Value("3", 60.0)) == (True, ())
        assert store.value("lock") == "3"

    def test_a_server_that_is_full_still_releases(self, url: str, open_: Any, monkeypatch: Any) -> None:
        store, mine = open_(url), claim()
        granted(store, mine)
        full, run, error = next(iter(store._database.dialect.full)), type(store)._release, store._database._engine()

        def release(self: Any, name: str, token: str, value: Value | None) -> bool:
            if value is not None:
                kind = error.dialect.loaded_dbapi.OperationalError
                raise store._database._unavailable(
                    kind(full, "full") if isinstance(full, int) else psycopg.errors.lookup(full)("full")
                )
            return bool(run(self, name, token, value))

        monkeypatch.setattr(type(store), "_release", release)
        assert store.release("lock", mine.token, Value("4", 60.0))
        assert store.holders("lock") == ()


class TestConnections:
    def test_promise_18_isolation_of_the_server(self, postgresql: str, open_: Any) -> None:
        """Functions run alone, so the server's default would hold for them."""
        store = open_(f"{postgresql}&options=-c%20default_transaction_isolation%3Dserializable")
        granted(store, mine := claim())
        assert isinstance(store.acquire(claim(), 60.0), Refused)
        level = "SELECT current_setting('transaction_isolation')"
        assert ask(store, level) == [("read committed",)]
        assert store.release("lock", mine.token)

    def test_promise_40_a_connection_that_is_dropped_takes_no_place(self, url: str, open_: Any) -> None:
        store = open_(url)
        store.ping()
        pool = store._database._engine().pool
        entry = pool._do_get()
        assert pool.checkedout() == 1
        del entry
        eventually(lambda: pool.checkedout() == 0, SOON)
        store.ping()

    def test_connections_are_bounded(self, url: str, open_: Any) -> None:
        store, together = open_(url), threading.Barrier(40)
        store.ping()

        def work() -> None:
            together.wait(SOON)
            store.ping()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        pool = store._database._engine().pool
        assert pool.checkedout() == 0
        assert len(pool._idle) <= 10

    def test_timeouts_of_the_address(self, url: str, open_: Any) -> None:
        store = open_(f"{url}&connect_timeout=5&request_timeout=0.5")
        assert store._database.timeout == 0.5
        assert store._database.timeout_for(60.0) == 0.5
        store.ping()
        for text in ("0", "-1", "x", "inf"):
            with pytest.raises(LockConfigError, match="request_timeout"):
                open_store(f"{url}&request_timeout={text}")

    def test_checks(self, url: str, open_: Any) -> None:
        results = open_(url).checks()
        assert set(results) == {"isolation", "clock", *(["autovacuum"] if "postgresql" in url else [])}
        assert set(results.values()) == {""}

    def test_a_table_without_autovacuum_is_reported(self, postgresql: str, open_: Any) -> None:
        store = open_(postgresql)
        store.ping()
        tell(store, "ALTER TABLE celery_locks_lock SET (autovacuum_enabled = false)")
        assert "autovacuum_enabled" in store.checks()["autovacuum"]
