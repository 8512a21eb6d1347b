"""The clock of a file. All processes of a machine share it. Neither a reboot nor the wall clock sets it back."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import cache

from celery_locks._runtime.clock import Clock, system_clock, wall_time
from celery_locks.stores.sql.session import microseconds

#: If the clock seems to be behind by more than these microseconds, the machine has been restarted.
MOST_CLOCK_LAG_MICROSECONDS = 1_000_000

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS celery_locks_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    boot TEXT NOT NULL,
    ahead INTEGER NOT NULL,
    last_fencing_token INTEGER NOT NULL
)""",
    "INSERT OR IGNORE INTO celery_locks_clock VALUES (1, '', 0, 0)",
)
#: Stores the fencing token of a lease that is written by a single statement. It is created after the tables.
TRIGGER = """CREATE TRIGGER IF NOT EXISTS celery_locks_fence AFTER INSERT ON celery_locks_holder
WHEN NEW.fencing_token > (SELECT last_fencing_token FROM celery_locks_clock)
BEGIN
    UPDATE celery_locks_clock SET last_fencing_token = NEW.fencing_token;
END"""
#: An SQL condition: the clock is still set as in `FileClock.setting`.
AS_SET = "EXISTS (SELECT 1 FROM celery_locks_clock WHERE boot = ?4 AND ahead = ?5)"


@cache
def boot_id() -> str:
    """Return the id of this boot of the machine, ``"unknown"`` if there is none."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


class FileClock:
    """The machine's local clock plus an offset. The file stores the offset for the present boot.

    The first use in a new boot sets the clock by the wall clock, but never behind the last fencing token.

    Args:
        local: The clock of seconds since the machine started.
        wall: The clock of seconds since 1970.
        boot: The id of this boot of the machine.
    """

    def __init__(
        self, local: Clock = system_clock, wall: Callable[[], float] = wall_time, boot: str | None = None
    ) -> None:
        self._local = local
        self._wall = wall
        self._boot = boot_id() if boot is None else boot
        #: The boot and the offset of the file's clock in microseconds, as read last.
        self.setting: tuple[str | None, int] = (None, 0)

    def read(self, db: sqlite3.Connection, writing: bool) -> tuple[int, int]:
        """Return the time in microseconds, and the last fencing token.

        The query runs before the clock is read, so everything that this transaction sees was written by then.
        """
        query = "SELECT boot, ahead, last_fencing_token FROM celery_locks_clock"
        boot, ahead, last = db.execute(query).fetchone()
        local = microseconds(self._local.now())
        if boot != self._boot or local + ahead < last - MOST_CLOCK_LAG_MICROSECONDS:
            ahead = max(microseconds(self._wall()), last) - local
            if writing:  # a reader can't store the setting; the next writer does
                db.execute("UPDATE celery_locks_clock SET boot = ?, ahead = ?", (self._boot, ahead))
        self.setting = self._boot, ahead
        return local + ahead, last

    def now(self, setting: tuple[str | None, int]) -> int:
        """Return the time by a setting of the clock. A statement that uses it must check `AS_SET`."""
        return microseconds(self._local.now()) + setting[1]

    @staticmethod
    def next_fencing_token(db: sqlite3.Connection, now: int, last: int) -> int:
        """Return a fencing token greater than all before, and not before the time, in case the file was deleted."""
        token = max(last + 1, now)
        db.execute("UPDATE celery_locks_clock SET last_fencing_token = ?", (token,))
        return token
