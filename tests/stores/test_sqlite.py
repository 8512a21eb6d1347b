"""What is special to the store in a file: processes, forks, reboots, a busy file, bad addresses."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from celery_locks.errors import LockConfigError, StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.parking import Ticket
from celery_locks.stores.sql.schema import TABLES
from celery_locks.stores.sqlite import file
from celery_locks.stores.sqlite.clock import boot_id
from celery_locks.stores.sqlite.store import MOST_ROWS_SWEPT, WRITES_PER_SWEEP, SQLiteStore, open_sqlite
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from celery_locks.testing import MovableClock

PATIENCE = 60.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "locks.db")


def claim(name: str = "lock", ttl: float = 60.0) -> Claim:
    return Claim(name, uuid.uuid4().hex, "tester", ttl)


def granted(store: SQLiteStore, wanted: Claim) -> int:
    answer = store.acquire(wanted)
    assert isinstance(answer, Granted), answer
    return answer.fencing_token


def assert_sound(path: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def rows(path: str, table: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute(f"SELECT count(*) FROM celery_locks_{table}").fetchone()[0])


def as_somebody(action: Callable[[], object]) -> str:
    """What the action raises in a child that has no more rights than others: root may write anywhere."""
    boot_id()  # looked at once a process, by means that somebody may not have
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            action()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return said.read()


class Process:
    def __init__(self, what: str, *arguments: object) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sqlite_process.py")), what, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def heard(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate(timeout=PATIENCE)

    def go_on(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def assert_ends_well(self) -> None:
        _, errors = self.popen.communicate(timeout=PATIENCE)
        assert self.popen.returncode == 0, errors


@pytest.fixture
def start() -> Iterator[type[Process]]:
    started: list[Process] = []

    class Started(Process):
        def __init__(self, what: str, *arguments: object) -> None:
            super().__init__(what, *arguments)
            started.append(self)

    yield Started
    for process in started:
        process.kill()


class TestProcesses:
    @pytest.mark.slow
    def test_exclude_each_other(self, path: str, tmp_path: Path, start: type[Process]) -> None:
        processes = [start("hammer", path, tmp_path, 60) for _ in range(4)]
        for process in processes:
            process.assert_ends_well()
        fencing_tokens = [int(line) for line in (tmp_path / "fencing_tokens").read_text().split()]
        assert len(fencing_tokens) == 4 * 60
        assert fencing_tokens == sorted(set(fencing_tokens))
        assert_sound(path)

    @pytest.mark.slow
    def test_first_use_by_many_threads(self, tmp_path: Path, start: type[Process]) -> None:
        for turn in range(4):
            path = str(tmp_path / f"{turn}.db")
            processes = [start("first_use", path) for _ in range(4)]
            assert [process.heard() for process in processes] == ["ready"] * 4
            for process in processes:
                process.go_on()
            for process in processes:
                process.assert_ends_well()
            assert rows(path, "holder") == 4
            assert rows(path, "clock") == 1

    def test_killed_within_a_transaction(self, path: str, start: type[Process]) -> None:
        store = SQLiteStore(path)
        granted(store, claim())
        process = start("stop_within", path)
        assert process.heard() == "within"
        process.kill()
        assert isinstance(store.acquire(claim()), Refused)
        granted(store, claim("another"))
        assert_sound(path)

    @pytest.mark.slow
    def test_killed_at_any_moment(self, path: str, start: type[Process]) -> None:
        for times in (1, 3, 7, 12, 30):
            process = start("be_killed", path)
            for _ in range(times):
                assert process.heard() == "granted"
            process.kill()
        store, mine = SQLiteStore(path), claim("killed")
        give_up = time.monotonic() + 2 * PATIENCE
        while isinstance(answer := store.acquire(mine, PATIENCE), Refused):
            assert time.monotonic() < give_up, answer
            store.wait("killed", mine.token, answer.retry_in)
        assert_sound(path)

    def test_fork(self, path: str, start: type[Process]) -> None:
        start("fork", path).assert_ends_well()
        assert_sound(path)

    def test_fork_among_threads(self, path: str, start: type[Process]) -> None:
        start("fork_among_threads", path).assert_ends_well()
        assert_sound(path)

    def test_a_parent_s_connection_is_not_closed(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A fork that Python was not told of, as uWSGI makes them."""
        store = SQLiteStore(path)
        store.ping()
        parents = store._file._db
        assert parents is not None
        monkeypatch.setattr(file.os, "getpid", lambda: -1)
        store.ping()
        assert store._file._db is not parents
        parents.execute("SELECT 1")
        file._inherited.remove(parents)
        parents.close()


class TestClock:
    @pytest.fixture
    def local(self) -> MovableClock:
        return MovableClock(500.0)

    @pytest.fixture
    def wall(self) -> MovableClock:
        return MovableClock(1_700_000_000.0)

    def store(self, path: str, local: MovableClock, wall: MovableClock, boot: str = "first") -> SQLiteStore:
        return SQLiteStore(path, clock=local, wall=wall.now, boot=boot)

    @pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
    def test_the_wall_clock_moves_nothing(
        self, path: str, local: MovableClock, wall: MovableClock, jump: float
    ) -> None:
        store = self.store(path, local, wall)
        granted(store, claim())
        wall.advance(jump)
        local.advance(10)
        for reader in (store, self.store(path, local, wall)):
            assert isinstance(reader.acquire(claim()), Refused)
            assert reader.holders("lock")[0].expires_in == pytest.approx(50, abs=0.001)

    def test_leases_survive_a_reboot(self, path: str, local: MovableClock, wall: MovableClock) -> None:
        granted(self.store(path, local, wall), claim())
        wall.advance(20)
        restarted = MovableClock(3.0)
        store = self.store(path, restarted, wall, "second")
        assert store.holders("lock")[0].expires_in == pytest.approx(40, abs=0.001)
        assert isinstance(store.acquire(claim()), Refused)
        wall.advance(1_000_000)  # counts no more: the clock is set
        restarted.advance(39)
        assert isinstance(store.acquire(claim()), Refused)
        assert store.holders("lock")[0].expires_in == pytest.approx(1, abs=0.001)
        restarted.advance(1)
        granted(store, claim())

    @pytest.mark.parametrize("boot", ["second", "unknown"])
    def test_a_reboot_into_the_past(self, path: str, wall: MovableClock, boot: str) -> None:
        first = self.store(path, MovableClock(500.0), wall, "unknown")
        mine = claim()
        before = granted(first, mine)
        wall.advance(-1_000_000)
        second = self.store(path, MovableClock(3.0), wall, boot)
        assert second.holders("lock")[0].expires_in == pytest.approx(60, abs=0.001)
        second.release("lock", mine.token)
        assert granted(second, claim()) > before

    def test_fencing_grows_while_the_clock_stands(self, path: str, local: MovableClock, wall: MovableClock) -> None:
        store, fencing_tokens = self.store(path, local, wall), []
        for _ in range(5):
            fencing_tokens.append(granted(store, mine := claim()))
            store.release("lock", mine.token)
        assert fencing_tokens == sorted(set(fencing_tokens))

    def test_fencing_grows_past_a_deleted_file(self, tmp_path: Path, local: MovableClock, wall: MovableClock) -> None:
        before = granted(self.store(str(tmp_path / "old.db"), local, wall), claim())
        wall.advance(1)
        assert granted(self.store(str(tmp_path / "new.db"), local, wall), claim()) > before

    def test_the_machine_s_own_clock(self, path: str) -> None:
        before = time.time()
        fencing_token = granted(SQLiteStore(path), claim())
        assert before - 60 < fencing_token / 1e6 < time.time() + 60


class TestBusy:
    @pytest.fixture
    def writer(self, path: str) -> Iterator[sqlite3.Connection]:
        SQLiteStore(path).ping()
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield db

    def test_too_long(self, path: str, writer: sqlite3.Connection) -> None:
        store = open_sqlite(f"sqlite:///{path}?timeout=0.1")
        with pytest.raises(StoreUnavailable, match=r"busy for 0\.1 s.*timeout"):
            store.acquire(claim())
        writer.execute("ROLLBACK")
        granted(store, claim())

    def test_short_enough(self, path: str, writer: sqlite3.Connection) -> None:
        store = SQLiteStore(path, timeout=PATIENCE)
        timer = threading.Timer(0.2, writer.execute, ["ROLLBACK"])
        timer.start()
        granted(store, claim())
        timer.join()

    def test_reading_does_not_wait(self, path: str, writer: sqlite3.Connection) -> None:
        store = SQLiteStore(path, timeout=0.0)
        writer.execute("ROLLBACK")
        granted(store, claim())
        writer.execute("BEGIN IMMEDIATE")
        assert len(store.holders("lock")) == 1

    def test_a_first_use_waits_too(self, path: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreUnavailable, match="busy"):
                SQLiteStore(path, timeout=0.05).ping()
        SQLiteStore(path, timeout=0.05).ping()


class TestTransactions:
    def test_an_interrupt_undoes_the_whole(self, path: str) -> None:
        store = SQLiteStore(path)
        granted(store, claim())

        def torn(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM celery_locks_holder")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store._file.write(torn)
        assert len(SQLiteStore(path, timeout=0.0).force_release("lock")) == 1

    def test_a_transaction_that_was_left_open_is_undone(self, path: str) -> None:
        store = SQLiteStore(path)
        granted(store, claim())
        db = store._file._db
        assert db is not None
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM celery_locks_holder")
        assert len(store.holders("lock")) == 1
        granted(SQLiteStore(path, timeout=0.0), claim("another"))

    def test_a_deleted_file_is_made_again(self, path: str) -> None:
        store = SQLiteStore(path)
        before = granted(store, claim())
        for end in ("", "-wal", "-shm"):
            os.unlink(path + end)
        assert granted(store, claim()) > before
        assert isinstance(SQLiteStore(path).acquire(claim()), Refused)

    def test_wait_for_a_free_lock_ends_immediately(self, path: str) -> None:
        store = SQLiteStore(path)
        thread = threading.Thread(target=store.wait, args=("lock", "token", 10 * PATIENCE), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    def test_many_threads_first_use(self, path: str) -> None:
        store, held = SQLiteStore(path), []
        threads = [
            threading.Thread(target=lambda name=f"{number}": held.append(granted(store, claim(name))))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(set(held)) == 8


def write_often(store: SQLiteStore, times: int = 1) -> None:
    """As often as it takes to sweep each table once, or so many times."""
    for _ in range(times * WRITES_PER_SWEEP * len(TABLES)):
        store.ping()


class TestSweeping:
    def test_nothing_stays(self, path: str) -> None:
        clock = MovableClock()
        store = SQLiteStore(path, clock=clock)
        for number in range(2 * MOST_ROWS_SWEPT + 5):
            granted(store, claim(f"{number}", ttl=1.0))
            store.acquire(claim(f"{number}"), line_up=1.0)
        clock.advance(120)
        write_often(store)
        assert rows(path, "holder") == rows(path, "waiter") == MOST_ROWS_SWEPT + 5
        write_often(store, 2)
        assert rows(path, "holder") == rows(path, "waiter") == 0

    def test_no_value_stays(self, path: str) -> None:
        clock = MovableClock()
        store, mine = SQLiteStore(path, clock=clock), claim(ttl=300.0)
        granted(store, mine)
        assert store.write("lock", mine.token, "value", 1.0)
        clock.advance(0.5)
        write_often(store)
        assert rows(path, "value") == 1
        clock.advance(1)
        write_often(store)
        assert rows(path, "value") == 0

    def test_who_writes_once_sweeps_any_table(self, path: str) -> None:
        """Else what only such processes write would stay."""
        store = SQLiteStore(path, clock=(clock := MovableClock()))
        for _ in range(2):
            granted(store, mine := claim(uuid.uuid4().hex, ttl=1.0))
            assert store.write(mine.name, mine.token, "value", 1.0)
        clock.advance(120)
        for _ in range(4_000):
            SQLiteStore(path, clock=clock).ping()
            if rows(path, "holder") == rows(path, "value") == 0:
                return
        pytest.fail("something stayed")

    def test_the_living_stay(self, path: str) -> None:
        clock = MovableClock()
        store, mine = SQLiteStore(path, clock=clock), claim(ttl=300.0)
        granted(store, mine)
        store.acquire(claim(), line_up=300.0)
        clock.advance(290)
        write_often(store)
        assert rows(path, "holder") == rows(path, "waiter") == 1

    def test_a_late_renewal_hears_that_it_expired(self, path: str) -> None:
        clock = MovableClock()
        store, mine = SQLiteStore(path, clock=clock), claim(ttl=5.0)
        granted(store, mine)
        clock.advance(20)
        write_often(store)
        assert store.renew([Renewal("lock", mine.token, 5.0)]) == ["expired"]
        clock.advance(120)
        write_often(store)
        assert store.renew([Renewal("lock", mine.token, 5.0)]) == ["deleted"]

    def test_endless_times_fit(self, path: str) -> None:
        store, mine = SQLiteStore(path), claim(ttl=float("inf"))
        granted(store, mine)
        assert store.renew([Renewal("lock", mine.token, 1e300)]) == [None]
        assert isinstance(store.acquire(claim(), line_up=float("inf")), Refused)


class TestAddresses:
    def test_absolute(self, tmp_path: Path) -> None:
        store = open_store(f"sqlite:///{tmp_path}/of%20a%23%C3%A9.db")
        store.ping()
        assert (tmp_path / "of a#é.db").exists()

    def test_relative_to_where_it_was_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        store = open_store("sqlite:///locks.db")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.ping()
        assert (tmp_path / "locks.db").exists()

    @pytest.mark.parametrize(
        ("url", "advice"),
        [
            ("sqlite://", "sqlite:////absolute/path"),
            ("sqlite:///", "sqlite:////absolute/path"),
            ("sqlite://locks.db", "sqlite:////absolute/path"),
            ("sqlite://host/locks.db", "sqlite:////absolute/path"),
            ("sqlite:///:memory:", "memory://"),
            ("sqlite:////tmp/a#b", "%23"),
            ("sqlite:////tmp/a%00b", "NUL"),
            ("sqlite:////tmp/a?timeot=3", "timeot"),
            ("sqlite:////tmp/a?timeout=soon", "timeout=30"),
            ("sqlite:////tmp/a?timeout=", "timeout=30"),
            ("sqlite:////tmp/a?timeout=-1", "timeout=30"),
            ("sqlite:////tmp/a?timeout=nan", "timeout=30"),
            ("sqlite:////tmp/a?timeout=inf", "timeout=30"),
        ],
    )
    def test_bad_urls(self, url: str, advice: str) -> None:
        with pytest.raises(LockConfigError) as caught:
            open_store(url)
        assert advice in str(caught.value)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match=r"no folder .*missing; make it"):
            SQLiteStore(str(tmp_path / "missing" / "locks.db")).ping()

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match="it is a folder"):
            SQLiteStore(str(tmp_path)).ping()

    def test_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("buy milk\n" * 100)
        with pytest.raises(StoreUnavailable, match="no SQLite database"):
            SQLiteStore(str(tmp_path / "notes.txt")).ping()
        assert (tmp_path / "notes.txt").read_text() == "buy milk\n" * 100

    def test_no_rights(self) -> None:
        with TemporaryDirectory() as folder:
            os.chmod(folder, 0o555)
            said = as_somebody(lambda: SQLiteStore(f"{folder}/locks.db").ping())
        assert said.startswith("StoreUnavailable")
        assert "needs the right to write" in said

    def test_it_serves_again_when_the_cause_is_gone(self, tmp_path: Path) -> None:
        store = SQLiteStore(str(tmp_path / "later" / "locks.db"))
        with pytest.raises(StoreUnavailable):
            store.acquire(claim())
        (tmp_path / "later").mkdir()
        granted(store, claim())

    def test_a_file_shared_with_other_tables(self, path: str) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE holder (name TEXT)")
            db.commit()
        granted(SQLiteStore(path), claim())


def test_holders_are_those_of_one_moment(tmp_path: Path) -> None:
    """A reader that is held up between the clock and the rows names nobody together with its successor."""

    class Slow(MovableClock):
        held_up: Callable[[], object] | None = None

        def now(self) -> float:
            now = super().now()
            if self.held_up is not None:
                held_up, self.held_up = self.held_up, None
                held_up()
            return now

    clock = Slow()
    reader, writer = (SQLiteStore(str(tmp_path / "locks.db"), clock=clock) for _ in range(2))
    for read in (lambda: len(reader.holders("k")), lambda: reader.held("k")):
        assert isinstance(writer.acquire(Claim("k", f"first {read}", "first", 1.0)), Granted)

        def take_over() -> None:
            clock.advance(1.0)
            assert isinstance(writer.acquire(Claim("k", "second", "second", 1.0)), Granted)

        clock.held_up = take_over
        assert read() == 1
        clock.advance(1.0)
    reader.close()
    writer.close()


def test_promise_45_a_file_of_another_release_states_what_to_do(tmp_path: Path) -> None:
    path = str(tmp_path / "locks.db")
    with closing(SQLiteStore(path)) as store:
        store.ping()
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE celery_locks_ticket DROP COLUMN why")
    with closing(SQLiteStore(path)) as store:
        store.acquire(Claim("p:{k}", "holder", "o", 60))
        with pytest.raises(StoreUnavailable, match="another release of celery-locks"):
            store.enter(Claim("p:{k}", "parked", "o", 60), Ticket("id", "message", "task"))
