"""SQLite files that were deleted, have two names, are on a full disk, or are asked for by a signal's handler."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from threading import Barrier, Thread
from types import FrameType
from typing import Any

import pytest

from celery_locks import Locks
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.sqlite import SQLiteStore, file, location
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from tests.support.interrupts import Check, Work, failures
from tests.support.waiting import eventually

PATIENCE = 60.0

#: Holds a key in a file for as long as its input is open.
HOLDER = """
import sys, uuid
from celery_locks.stores.types import Claim
from celery_locks.stores.sqlite import SQLiteStore
store = SQLiteStore(sys.argv[1])
try:
    print(type(store.acquire(Claim("k", uuid.uuid4().hex, "other process", 60))).__name__, flush=True)
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that has a file open."""

    def __init__(self, path: Path) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdout is not None
        self.said = self.popen.stdout.readline().strip()

    def end(self) -> None:
        self.popen.communicate(timeout=PATIENCE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks.db"


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    made = Holder(path)
    assert made.said == "Granted"
    yield made
    made.popen.kill()
    made.popen.communicate(timeout=PATIENCE)


def claim(name: str = "k", ttl: float = 60.0) -> Claim:
    return Claim(name, uuid.uuid4().hex, "tester", ttl)


class TestDeleted:
    def test_while_an_idle_process_has_it_open(self, path: Path, holder: Holder) -> None:
        path.unlink()
        store = SQLiteStore(str(path))
        mine = claim()
        assert isinstance(store.acquire(mine), Granted)
        holder.end()  # it closes the deleted file, and leaves the new one alone
        assert isinstance(SQLiteStore(str(path)).acquire(claim()), Refused)
        assert store.release("k", mine.token)

    def test_many_make_it_anew(self, path: Path, holder: Holder) -> None:
        path.unlink()
        others = [Holder(path) for _ in range(4)]
        assert sorted(other.said for other in others) == ["Granted", "Refused", "Refused", "Refused"]
        for other in others:
            other.end()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    @pytest.mark.parametrize("step", ["_open", "claim_place", "_in_transaction"])
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_while_it_is_being_opened(self, path: Path, step: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store that stays with the deleted file would grant what is held in the new one."""
        SQLiteStore(str(path)).ping()
        real, held = getattr(file, step), claim()

        def replacing(*args: Any) -> Any:
            monkeypatch.setattr(file, step, real)
            result = real(*args) if when == "after" else None
            path.unlink()
            assert isinstance(SQLiteStore(str(path)).acquire(held), Granted)
            return real(*args) if when == "before" else result

        monkeypatch.setattr(file, step, replacing)
        store = SQLiteStore(str(path))
        assert isinstance(store.acquire(claim()), Refused)
        assert getattr(file, step) is real, "it was replaced"
        assert store.release("k", held.token)


@pytest.mark.skipif(location._SET is None, reason="this system has no locks of open files")
class TestTwoNames:
    def test_both_are_opened_at_the_same_time_by_threads(self, path: Path, tmp_path: Path) -> None:
        link, together, answers = tmp_path / "link.db", Barrier(8), list[str]()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 1")
        link.hardlink_to(path)

        def open_and_acquire(name: Path) -> None:
            store = SQLiteStore(str(name))
            together.wait(PATIENCE)
            try:
                answers.append(f"{name.name} {type(store.acquire(claim())).__name__}")
            except StoreUnavailable as error:
                answers.append(f"{name.name} {'second name' in str(error)}")

        threads = [Thread(target=open_and_acquire, args=(name,)) for name in [path, link] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        (granted,) = [answer.split()[0] for answer in answers if answer.endswith("Granted")]
        refused = [answer.split()[0] for answer in answers if answer.endswith("Refused")]
        assert refused == [granted] * 3
        assert sum(answer.endswith("True") for answer in answers) == 4

    def test_both_are_opened_at_the_same_time_by_processes(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 1")
        link.hardlink_to(path)
        with ThreadPoolExecutor(4) as pool:
            others = list(pool.map(Holder, [path, link] * 2))
        said = [other.said.partition(":")[0] for other in others]
        for other in others:
            other.end()
        assert said.count("Granted") <= 1
        assert said.count("StoreUnavailable") >= 2

    def test_a_second_name_is_refused_until_the_first_is_given_up(
        self, path: Path, holder: Holder, tmp_path: Path
    ) -> None:
        link = tmp_path / "link.db"
        link.hardlink_to(path)
        store = SQLiteStore(str(link))
        with pytest.raises(StoreUnavailable, match="second name"):
            store.acquire(claim())
        with pytest.raises(StoreUnavailable, match="second name"):
            store.acquire(claim())
        holder.end()
        eventually(lambda: isinstance(store.acquire(claim("other")), Granted))

    def test_in_one_process(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        one, two = SQLiteStore(str(path)), SQLiteStore(str(link))
        one.ping()
        link.hardlink_to(path)
        with pytest.raises(StoreUnavailable, match="second name"):
            two.ping()
        one.close()
        two.ping()
        two.close()

    def test_a_symbolic_link_is_no_second_name(self, path: Path, holder: Holder, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        link.symlink_to(path)
        assert isinstance(SQLiteStore(str(link)).acquire(claim()), Refused)

    def test_a_folder_with_two_names_is_no_second_name(self, path: Path, holder: Holder, tmp_path: Path) -> None:
        (tmp_path / "folder").symlink_to(tmp_path)
        assert isinstance(SQLiteStore(str(tmp_path / "folder" / "locks.db")).acquire(claim()), Refused)

    def test_a_forked_child_has_a_claim_of_its_own(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        parent, two = SQLiteStore(str(path)), SQLiteStore(str(link))
        parent.ping()
        link.hardlink_to(path)
        reader, writer = os.pipe()
        said, child_said = os.pipe()
        if (child := os.fork()) == 0:
            try:
                parent.ping()
                os.write(child_said, b"!")
                os.read(reader, 1)
            finally:
                os._exit(0)
        os.read(said, 1)
        parent.ping()
        parent.close()
        with pytest.raises(StoreUnavailable, match="second name"):
            two.ping()
        os.write(writer, b"!")
        os.waitpid(child, 0)
        two.ping()
        two.close()

    def test_a_bind_mount(self, path: Path, holder: Holder, tmp_path: Path) -> None:
        place = tmp_path / "folder" / "locks.db"
        place.parent.mkdir()
        place.touch()
        done = subprocess.run(["mount", "--bind", str(path), str(place)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting is not allowed here")
        try:
            store = SQLiteStore(str(place))
            with pytest.raises(StoreUnavailable, match="mount the folder"):
                store.acquire(claim())
            holder.end()
            eventually(lambda: isinstance(store.acquire(claim("other")), Granted))
            assert "mount the folder" in store.checks()["name"]
            store.close()
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)


class TestChecks:
    def test_all_is_well(self, path: Path) -> None:
        checks = SQLiteStore(str(path)).checks()
        assert list(checks) == ["name", "disk", "space", "journal"]
        assert {checks["name"], checks["journal"]} == {""}

    def test_a_network_file_system(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kinds = {"/": "ext4", str(path.parent): "nfs4"}
        monkeypatch.setattr(location, "_mounts", lambda: kinds)
        store = SQLiteStore(str(path))
        assert "network file system (nfs4)" in store.checks()["disk"]
        kinds[str(path.parent)] = "xfs"
        assert store.checks()["disk"] == ""

    def test_mount_points_with_odd_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = tmp_path / "mountinfo"
        lines.write_text(r"36 35 98:0 /root /with\040space rw,noatime shared:1 - cifs /dev/root rw" + "\n")
        real = open
        monkeypatch.setattr("builtins.open", lambda _, **options: real(lines, **options))
        assert location._mounts() == {"/with space": "cifs"}

    def test_a_disk_that_is_nearly_full(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(location, "LEAST_FREE_BYTES", 1 << 62)
        assert "free some of it" in SQLiteStore(str(path)).checks()["space"]

    def test_another_journal(self, path: Path) -> None:
        store = SQLiteStore(str(path))
        store.ping()
        store.close()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = DELETE")
        assert store.checks()["journal"] == ""  # it is set again


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "rest").open("wb", buffering=0) as rest:
        try:
            while True:
                rest.write(bytes(4096))
        except OSError:
            pass


class TestFullDisk:
    def test_what_is_held_is_renewed_and_released(self, small_disk: Path) -> None:
        store = SQLiteStore(str(small_disk / "locks.db"))
        held = [claim(f"{number}") for number in range(20)]
        for each in held:
            assert isinstance(store.acquire(each), Granted)
        fill(small_disk)
        for _ in range(30):
            assert set(store.renew([Renewal(each.name, each.token, 60.0) for each in held])) == {None}
        assert all(store.release(each.name, each.token) for each in held)
        (small_disk / "rest").unlink()
        assert isinstance(store.acquire(claim()), Granted)

    def test_the_error_reports_what_to_do(self, small_disk: Path) -> None:
        store = SQLiteStore(str(small_disk / "locks.db"))
        store.ping()
        fill(small_disk)

        def take_many() -> None:
            for number in range(100_000):
                store.acquire(claim(f"{number}" * 50))

        with pytest.raises(StoreUnavailable, match="free space on the disk"):
            take_many()


class TestSignals:
    def test_a_handler_that_asks_is_never_kept_waiting_by_its_own_thread(self, path: Path) -> None:
        """At each moment of a pair once; a handler runs when a function begins, and when one made in C has returned."""
        locks, answers = Locks(SQLiteStore(str(path))), list[str]()

        def handler() -> None:
            try:
                lease = locks.lock("handler").try_acquire()
                answers.append("refused" if lease is None else "granted" if lease.release() else "lost")
            except StoreUnavailable as error:
                answers.append(str(error))

        def pair(moment: int) -> int:
            seen = 0

            def profile(frame: FrameType, event: str, argument: object) -> None:
                nonlocal seen
                if event in ("call", "c_return") and "sqlite" in frame.f_code.co_filename:
                    seen += 1
                    if seen == moment:
                        sys.setprofile(None)
                        handler()

            sys.setprofile(profile)
            try:
                locks.lock("main").acquire(timeout=PATIENCE).release()
            finally:
                sys.setprofile(None)
            return seen

        moments = max(pair(0) for _ in range(10))
        begun = time.monotonic()
        for moment in range(1, moments + 1):
            pair(moment)
        assert time.monotonic() - begun < PATIENCE
        assert "granted" in answers
        assert all("interrupted its own thread" in answer for answer in set(answers) - {"granted"}), answers

    def test_a_handler_within_a_change_hears_so(self, path: Path) -> None:
        store = SQLiteStore(str(path))

        def change(db: sqlite3.Connection) -> None:
            with pytest.raises(StoreUnavailable, match="set a flag"):
                store.ping()
            assert store.holders("k") == ()  # who reads waits for nobody

        store.ping()
        store._file.write(change)
        store.ping()


class Struck(BaseException):
    """What a signal's handler raises."""


@pytest.mark.slow
def test_promise_40_an_interrupt_leaves_the_file_to_others(tmp_path: Path) -> None:
    numbers = count()

    def make() -> tuple[Work, Check]:
        folder = tmp_path / f"{os.getpid()}-{next(numbers)}"
        folder.mkdir()
        path = str(folder / "locks.db")

        def work() -> None:
            mine, store = claim(ttl=0.05), SQLiteStore(path)
            store.acquire(mine)
            store.acquire(claim(), 0.05)
            store.renew([Renewal("k", mine.token, 0.05), Renewal("other", "other", 0.05)])
            store.release("k", mine.token)
            store.close()

        def check(error: BaseException | None) -> str:
            if not isinstance(error, Struck):
                return f"ended with {error!r}"
            try:
                SQLiteStore(path, timeout=5.0).ping()
            except StoreUnavailable as unavailable:  # a transaction was left open
                return str(unavailable)
            with closing(sqlite3.connect(path)) as db:
                sound = db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return "" if sound else "the file is damaged"

        return work, check

    wrong, places = failures(make, Struck)
    assert places > 50
    assert wrong == []
