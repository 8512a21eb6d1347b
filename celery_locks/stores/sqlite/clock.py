"""The clock of a file: all processes of a machine agree on it; no reboot and no wall clock turns it back."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import cache

from celery_locks._runtime.clock import Clock, system_clock, wall_time
from celery_locks.stores.sql.session import microseconds

#: Microseconds; how far the clock may seem to lie behind before that is taken for a restart of the machine.
SLACK = 1_000_000

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS celery_locks_clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    boot TEXT NOT NULL,
    ahead INTEGER NOT NULL,
    last_fencing_token INTEGER NOT NULL
)""",
    "INSERT OR IGNORE INTO celery_locks_clock VALUES (1, '', 0, 0)",
)
#: Notes the fencing token of a lease that is written by a single statement; after the tables.
TRIGGER = """CREATE TRIGGER IF NOT EXISTS celery_locks_fence AFTER INSERT ON celery_locks_holder
WHEN NEW.fencing_token > (SELECT last_fencing_token FROM celery_locks_clock)
BEGIN
    UPDATE celery_locks_clock SET last_fencing_token = NEW.fencing_token;
END"""
#: Holds as long as this clock is set as `FileClock.setting` says.
AS_SET = "EXISTS (SELECT 1 FROM celery_locks_clock WHERE boot = ?4 AND ahead = ?5)"


@cache
def boot_id() -> str:
    """What tells this start of the machine from all others; ``unknown`` where nothing does."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


class FileClock:
    """The machine's local clock, set ahead by a number that the file keeps for as long as the machine runs.

    At the first use in a new boot it is set by the wall clock, but never behind the last fencing token.

    Args:
        local: Seconds since the machine started.
        wall: Seconds since 1970.
        boot: The id of this start of the machine.
    """

    def __init__(
        self, local: Clock = system_clock, wall: Callable[[], float] = wall_time, boot: str | None = None
    ) -> None:
        self._local = local
        self._wall = wall
        self._boot = boot_id() if boot is None else boot
        #: The boot, and by how many microseconds the file's clock is ahead in it, as they were read last.
        self.setting: tuple[str | None, int] = (None, 0)

    def read(self, db: sqlite3.Connection, writing: bool) -> tuple[int, int]:
        """Now, in microseconds, and the last fencing token that was given.

        The query comes before the look at the clock: all that this transaction sees was written by then.
        """
        query = "SELECT boot, ahead, last_fencing_token FROM celery_locks_clock"
        boot, ahead, last = db.execute(query).fetchone()
        local = microseconds(self._local.now())
        if boot != self._boot or local + ahead < last - SLACK:
            ahead = max(microseconds(self._wall()), last) - local
            if writing:  # else nobody else may rely on it: the next writer sets the clock
                db.execute("UPDATE celery_locks_clock SET boot = ?, ahead = ?", (self._boot, ahead))
        self.setting = self._boot, ahead
        return local + ahead, last

    def now(self, setting: tuple[str | None, int]) -> int:
        """Now, as long as the clock is set so: what is done by it asks for `AS_SET`."""
        return microseconds(self._local.now()) + setting[1]

    @staticmethod
    def next_fencing_token(db: sqlite3.Connection, now: int, last: int) -> int:
        """Greater than all before; near the time, so that it grows even past a file that was deleted."""
        token = max(last + 1, now)
        db.execute("UPDATE celery_locks_clock SET last_fencing_token = ?", (token,))
        return token
