"""What happened in a run, as those wrote it who did it: outside of the store under test, a file for each process."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

#: The clock that leases count by: one for all processes of the machine, which nothing shifts.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds of the machine's clock."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True)
class Event:
    """A line of the history.

    ============ ====================================== ===============================================
    kind         when it is written                     with
    ============ ====================================== ===============================================
    ``acquire``  the store has said yes                 key, token, fence, limit, sent, ttl, task_id
    ``renew``    the store has said yes again           key, token, sent, ttl
    ``let_go``   before a release is sent               key, token
    ``release``  a release is confirmed                 key, token
    ``lost``     the holder was told                    key, token, reason
    ``begin``    the body's first line                  key, token, fence, limit, task_id
    ``write``    the register has answered              key, token, fence, number, accepted, limit
    ``end``      the body's last line, however it ends  key, token, task_id, reason (empty for well)
    ``success``  Celery says so                         task_id
    ``failed``   Celery says so                         task_id, reason
    ``sent``     before a call                          key, task_id, reason (the task's name)
    ``unsent``   the call raised                        task_id, reason
    ``existing`` the call gave another's result         task_id
    ``killed``   before a process is killed             pid
    ``quit``     before it is told to end at once, or   pid
                 its parent is killed
    ``loss``     the store may have forgotten           until (the end of it), reason
    ``fault``    a fault begins                         reason
    ============ ====================================== ===============================================

    Attributes:
        kind: See above.
        at: When, in seconds of `now`.
        pid: Who wrote it, or whom it is about.
        sent: When the request was sent that the store has said yes to.
        ttl: For how long from then.
        number: The register's count of writes to a key, refused ones too.
    """

    kind: str
    at: float
    pid: int = 0
    key: str = ""
    token: str = ""
    fence: int = 0
    limit: int = 1
    sent: float = 0.0
    ttl: float = 0.0
    task_id: str = ""
    reason: str = ""
    number: int = 0
    accepted: bool = True
    until: float = 0.0

    def line(self) -> bytes:
        told = {name: value for name, value in asdict(self).items() if value != _DEFAULTS.get(name)}
        return json.dumps(told).encode() + b"\n"


_DEFAULTS = {field.name: field.default for field in fields(Event)}


class History:
    """Writes whole lines, each by one system call: a process that is killed leaves no half ones behind others.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = -1
        self._pid = 0

    def write(self, kind: str, **told: object) -> None:
        """Writes an event of this moment and this process, unless told otherwise."""
        event = Event(kind, **{"at": now(), "pid": os.getpid(), **told})  # type: ignore[arg-type]
        os.write(self._mine(), event.line())

    def _mine(self) -> int:
        if self._pid != os.getpid():  # a child has a file of its own
            path = self.folder / f"{os.getpid()}-{time.monotonic_ns()}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._pid = os.getpid()
        return self._file


class Reader:
    """Reads a history that grows.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def news(self) -> list[Event]:
        """What was written since the last time, each file in its order."""
        found = []
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole, _, _ = file.read().rpartition(b"\n")  # a line under way comes the next time
            if whole:
                self._read[path] = self._read.get(path, 0) + len(whole) + 1
                found += [Event(**json.loads(line)) for line in whole.split(b"\n")]
        return found


def read(folder: Path) -> list[Event]:
    """The whole history, in the order of its clock."""
    return sorted(Reader(folder).news(), key=lambda event: event.at)


class Register:
    """Something that is written to and refuses older fencing tokens than it has seen. Knows nothing of locks.

    Args:
        folder: Where its files are.
        history: Gets each write and its answer, in a ``write``.
    """

    _RECORD = 48

    def __init__(self, folder: Path, history: History) -> None:
        self._folder = folder
        self._history = history

    def write(self, key: str, fence: int, **told: object) -> bool:
        """Writes to a key. Returns whether it was accepted.

        The count and the highest token are one record, and go to the file by one system call.
        """
        # Closed with its frame, whatever strikes in between: nobody is left holding the file's lock.
        with open(self._folder / f"{key}.register", "r+b", buffering=0, opener=_create) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            number, highest = (int(part) for part in (os.pread(file.fileno(), self._RECORD, 0) or b"0 0").split())
            accepted = fence >= highest
            record = f"{number + 1} {max(fence, highest)}".ljust(self._RECORD).encode()
            os.pwrite(file.fileno(), record, 0)
            self._history.write("write", key=key, fence=fence, number=number + 1, accepted=accepted, **told)
            return accepted


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o644)
