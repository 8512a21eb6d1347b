"""A SQLite file shared by many processes and threads: short transactions, retries while it is busy, safe forks."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakSet

from celery_locks._runtime import threads
from celery_locks._runtime.clock import system_clock
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.sqlite.location import claim_place, folder_lock

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

#: The longest pause before the first retry on a busy file, in seconds. It doubles up to the second number.
FIRST_BUSY_PAUSE_SECONDS, LONGEST_BUSY_PAUSE_SECONDS = 0.0005, 0.003
#: Timeout of a signal handler that interrupted a call of its own thread, in seconds. That call may block it.
NESTED_TIMEOUT_SECONDS = 0.1
#: Seconds that a fork waits for the transaction of another thread.
FORK_TIMEOUT_SECONDS = 5.0

#: Unused bytes in a new file, so that renewals and releases succeed on a full disk.
RESERVE_BYTES = 262_144

#: Connections of a parent process. Closing one would affect the parent's files, so they are kept unused.
_inherited: list[sqlite3.Connection] = []


class SQLiteFile:
    """A file with one connection. It is opened again after a fork, an error, or if the file is replaced.

    Args:
        path: The file, created if it is missing.
        make_tables: Creates the tables; safe to run again.
        timeout: Seconds to wait while other processes write.
    """

    def __init__(self, path: str, make_tables: Work[Any], timeout: float) -> None:
        # Celery changes the working folder when it becomes a daemon. The path must not change with it.
        self.path = os.path.abspath(path)
        self._make_tables = make_tables
        self._timeout = timeout
        self._mutex = threads.RLock()
        self._db: sqlite3.Connection | None = None
        self._opened_as: tuple[int, int, int] | None = None
        self._leave_place: Callable[[], None] = _nothing
        _files.add(self)

    def read(self, work: Work[T]) -> T:
        """Run queries that all see one state of the file and block no one."""
        return self._patiently(lambda db: _in_transaction(db, work, "BEGIN DEFERRED"))

    def write(self, work: Work[T]) -> T:
        """Run one transaction. The work may be called several times, and only its last call counts."""
        return self._patiently(lambda db: _in_transaction(db, work))

    def run(self, work: Work[T]) -> T:
        """Run a single statement, which is a transaction of its own."""
        return self._patiently(work)

    def close(self) -> None:
        """Close the connection. The next use opens another."""
        if self._mutex._is_owned():  # type: ignore[attr-defined]
            return  # a signal handler must not close what its own thread uses
        with self._mutex:
            self._disconnect()

    def _patiently(self, work: Work[T]) -> T:
        """Retry while other processes write.

        SQLite's own busy handler lets a waiting writer starve. So it is off, and the pauses here are short and random.
        """
        nested = self._mutex._is_owned()  # type: ignore[attr-defined]
        timeout = min(NESTED_TIMEOUT_SECONDS, self._timeout) if nested else self._timeout
        give_up, pause, has_room = None, FIRST_BUSY_PAUSE_SECONDS, True
        while True:
            try:
                with self._mutex:
                    return self._once_on_other_connection(work) if nested else self._once(work)
            except sqlite3.Error as error:
                if has_room and not nested and _is_full(error):
                    has_room = False
                    self._make_room()
                    continue
                if not _is_busy(error):
                    raise StoreUnavailable(self._explain(error)) from error
                now = system_clock.now()
                give_up = give_up or now + timeout
                if now >= give_up:
                    raise StoreUnavailable(self._explain_busy(timeout, nested)) from error
            time.sleep(min(random.uniform(0, pause), give_up - now))
            pause = min(pause * 2, LONGEST_BUSY_PAUSE_SECONDS)

    def _once(self, work: Work[T]) -> T:
        try:
            return work(self._connection())
        except sqlite3.Error as error:
            if not (_is_busy(error) or _is_full(error)):
                self._disconnect()
            raise

    def _once_on_other_connection(self, work: Work[T]) -> T:
        """Run the work on a separate connection, for a signal handler that interrupted a call of its own thread."""
        db = _open(self.path)
        try:
            return work(db)
        finally:
            db.close()

    def _make_room(self) -> None:
        """Make the write-ahead log start again from its beginning, after the disk was full.

        The log's pages are copied into space that the file already has; see `RESERVE_BYTES`.
        """
        with self._mutex, suppress(sqlite3.Error):
            self._connection().execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def _connection(self) -> sqlite3.Connection:
        db = self._db
        if db is None or self._opened_as != self._identity():
            self._disconnect()
            return self._connect()
        if db.in_transaction:  # an exception from a signal handler interrupted the last transaction
            db.rollback()
        return db

    def _connect(self) -> sqlite3.Connection:
        with self._making(), ExitStack() as failed:
            # This comes first: it keeps the file open, so no other file gets its inode meanwhile.
            leave = claim_place(self.path)
            failed.callback(leave)
            identity = self._identity()
            db = _open(self.path)
            failed.callback(db.close)
            self._check_identity(identity)
            self._prepare(db)
            self._check_identity(identity)
            failed.pop_all()
        self._db, self._opened_as, self._leave_place = db, identity, leave
        return db

    def _check_identity(self, identity: tuple[int, int, int] | None) -> None:
        """Check that the path still names the same file. Otherwise either file may have been opened.

        Raises:
            sqlite3.OperationalError: The file was replaced. The caller opens it again.
        """
        if identity is not None and self._identity() != identity:
            raise sqlite3.OperationalError(f"{self.path} is locked: it was replaced while it was opened")

    @contextmanager
    def _making(self) -> Iterator[None]:
        """Let one process at a time create a missing or empty file, and remove the log of a deleted one.

        Otherwise a process that still has the deleted file open would share its log with the new file.
        """
        if not _is_empty(self.path):
            yield
            return
        with folder_lock(os.path.dirname(self.path)):
            if _is_empty(self.path):
                for end in ("-wal", "-shm"):
                    with suppress(OSError):
                        os.unlink(self.path + end)
            yield

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA page_size = 1024")  # of a new file: a write changes a few small rows, each on another page
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 4000")  # pages; each checkpoint waits for the disk
        _in_transaction(db, self._make_tables)
        pages, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        if pages * size < RESERVE_BYTES:
            _in_transaction(db, _add_reserve)
            # Copies the space into the file itself. The log keeps its length, too.
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            _in_transaction(db, _free_reserve)

    def _identity(self) -> tuple[int, int, int] | None:
        """Return this process and the file that the path names now, since the open file may have been replaced."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return os.getpid(), found.st_dev, found.st_ino

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is None:
            return
        if self._opened_as is not None and self._opened_as[0] != os.getpid():
            _inherited.append(db)
        else:
            db.close()
            self._leave_place()

    def _explain_busy(self, timeout: float, nested: bool) -> str:
        if nested:
            return (
                f"{self.path} was busy for {timeout:g} s: a signal's handler interrupted its own thread, which may be "
                "changing the file; let the handler set a flag, and ask afterwards"
            )
        return (
            f"{self.path} was busy for {timeout:g} s: another program has a transaction open on it; give the locks a "
            "file of their own, or a longer ?timeout="
        )

    def _explain(self, error: sqlite3.Error) -> str:
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            return f"the lock store {self.path} can't be opened: there is no folder {folder}; make it"
        if os.path.isdir(self.path):
            return f"the lock store {self.path} can't be opened: it is a folder; name a file in it"
        if "not a database" in str(error):
            return f"the lock store {self.path} is no SQLite database; give the locks a file of their own"
        may_use_file = os.access(self.path, os.R_OK | os.W_OK) or not os.path.exists(self.path)
        if not os.access(folder, os.W_OK | os.X_OK) or not may_use_file:
            return (
                f"the lock store {self.path} can't be used ({error}): this user needs the right to write to it "
                f"and to make files in {folder}"
            )
        return f"the lock store {self.path} can't be used: {error}{self._remedy(str(error))}"

    def _remedy(self, error: str) -> str:
        """Return the remedy for an error of SQLite that the rights on the file don't explain."""
        if "is full" in error or "disk I/O" in error:
            return f"; free space on the disk of {self.path}, or see the system's log for errors of that disk"
        if "readonly" in error or "read-only" in error or "unable to open" in error:
            return f"; the file or its disk is read-only: make it writable, or name a file elsewhere than {self.path}"
        if "column" in error:  # a missing one
            return (
                "; its tables are those of another release of celery-locks: use that release, or stop what uses the "
                "file, delete it, and start again (leases in it end by that)"
            )
        if "malformed" in error:
            return "; the file is damaged: stop what uses it, delete it, and start again"
        return ""


def _open(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def _add_reserve(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS celery_locks_space (bytes BLOB)")
    db.execute("INSERT INTO celery_locks_space VALUES (zeroblob(?))", (RESERVE_BYTES,))


def _free_reserve(db: sqlite3.Connection) -> None:
    db.execute("DROP TABLE IF EXISTS celery_locks_space")


def _is_empty(path: str) -> bool:
    try:
        return os.stat(path).st_size == 0
    except OSError:
        return True


def _in_transaction(db: sqlite3.Connection, work: Work[T], begin: str = "BEGIN IMMEDIATE") -> T:
    try:
        db.execute(begin)
        result = work(db)
        db.execute("COMMIT")
        return result
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise


def _is_full(error: sqlite3.Error) -> bool:
    return "is full" in str(error)


def _nothing() -> None:
    """Do nothing, while no file is open."""


def _is_busy(error: sqlite3.Error) -> bool:
    """Return whether another try may succeed. Python 3.10 has no error codes."""
    text = str(error)
    return " is locked" in text or "locking protocol" in text


# SQLite records its locks in the memory of the process. A child that inherited an open file would assume the parent's
# locks without having them, and another process could remove the log. So no file is open during a fork.

_files: WeakSet[SQLiteFile] = WeakSet()
_locked_for_fork: list[Any] = []


def _before_fork() -> None:
    for file in sorted(_files, key=id):  # the same order in every thread that forks
        if not file._mutex._is_owned() and file._mutex.acquire(timeout=FORK_TIMEOUT_SECONDS):  # type: ignore[attr-defined]
            _locked_for_fork.append(file._mutex)
            file._disconnect()


def _after_fork_in_parent() -> None:
    while _locked_for_fork:
        _locked_for_fork.pop().release()


def _after_fork_in_child() -> None:
    _locked_for_fork.clear()
    for file in _files:
        file._mutex = threads.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
