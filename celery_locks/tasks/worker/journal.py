"""What the runs of this process have asked the store for, written down where the worker finds it should this one die.

A file for each process, in the folder of its worker's life: slots of a fixed size, each written by one system call that
is within a page, so that a process which is killed leaves a slot as it was or as it was to be. It costs some 7 µs a
run. A claim is written before it is sent and struck out after its lease was given back: what is found can be too much,
but never too little, and whoever acts on it does so by the owner token, which changes nothing where it holds nothing.
"""

from __future__ import annotations

import itertools
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery.signals import worker_process_init

from celery_locks import _logging
from celery_locks._runtime.clock import wall_time
from celery_locks._validation import DEFAULT_STORE
from celery_locks.tasks.worker.liveness import Life, Process, lock_file, new_life, published

logger = _logging.logger(__name__)

#: Names the folder of the life to child processes that don't inherit it by a fork.
VARIABLE = "CELERY_LOCKS_LIFE"
#: Bytes for a claim: a divisor of every system's page.
SLOT = 2048
#: When it was granted (0: not yet), and how long the text is (0: the slot is free).
_HEADER = struct.Struct("<dI")
_FREE = _HEADER.pack(0.0, 0)
_GRANTED = struct.Struct("<d")


@dataclass(frozen=True)
class Written:
    """A claim that was written down.

    Attributes:
        token: The owner token.
        name: The lock's full name in the store.
        key: What is locked.
        task: The task's name.
        task_id: Its id.
        since: When it was granted, in seconds since 1970; 0 when it is not known to be.
        store: The name of the store.
    """

    token: str
    name: str
    key: str
    task: str
    task_id: str
    since: float
    store: str


class Record:
    """The file of this process.

    Args:
        life: The life it belongs to.
        main: Whether this is the worker's main process.

    Raises:
        OSError: It can't be written.
    """

    def __init__(self, life: Life, main: bool = False) -> None:
        me = Process.me()
        path = life.path / f"{'main.' if main else ''}{me.pid}.{me.start}"
        hidden = path.with_name(f".{path.name}")  # until it is locked: others take an unlocked one for a dead one's
        self.fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.path = path
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._new = itertools.count()
        if not lock_file(self.fd):
            raise OSError(f"{hidden} can't be locked")
        hidden.rename(path)

    def write(self, token: str, *rest: str) -> None:
        """Writes a claim down: token, name, key, task, task id, store."""
        data = "\0".join((token, *rest)).encode("utf-8", "surrogatepass")
        if len(data) > SLOT - _HEADER.size or data.count(b"\0") != len(rest):
            return  # rarer than it is worth: the lease ends with its ttl
        try:
            slot = self._free.pop()
        except IndexError:
            slot = next(self._new)
        self._slots[token] = slot
        os.pwrite(self.fd, _HEADER.pack(0.0, len(data)) + data, slot * SLOT)

    def granted(self, token: str) -> None:
        """A claim was granted."""
        slot = self._slots.get(token)
        if slot is not None:
            os.pwrite(self.fd, _GRANTED.pack(wall_time()), slot * SLOT)

    def strike(self, token: str) -> None:
        """Strikes a claim out."""
        slot = self._slots.pop(token, None)
        if slot is not None:
            os.pwrite(self.fd, _FREE, slot * SLOT)
            self._free.append(slot)

    def close(self) -> None:
        """Closes the file, which stays."""
        os.close(self.fd)


def read(fd: int) -> list[Written]:
    """What is written in a record."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    return [written for start in range(0, len(data), SLOT) if (written := _written(data[start : start + SLOT]))]


def _written(slot: bytes) -> Written | None:
    if len(slot) < _HEADER.size:
        return None
    since, length = _HEADER.unpack_from(slot)
    parts = slot[_HEADER.size : _HEADER.size + length].decode("utf-8", "replace").split("\0")
    if not length or len(parts) not in (5, 6):  # the version before knew one store
        return None
    token, name, key, task, task_id = parts[:5]
    return Written(token, name, key, task, task_id, since, parts[5] if len(parts) == 6 else DEFAULT_STORE)


# ---------------------------------------------------------------------- of this process

_life: Life | None = Life(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else None
_record: Record | None = None


def begin(site: str | None, folder: str | None) -> Life:
    """Begins the life of the worker that this process is the main one of; see `new_life`."""
    global _life, _record
    life = new_life(site, folder)
    _record = Record(life, main=True)
    _life = published(life)
    _record.path = _life.path / _record.path.name
    os.environ[VARIABLE] = str(_life.path)
    return _life


def end(life: Life) -> None:
    """Ends a life whose main process is this one: all that it held was given back."""
    global _life, _record
    for member in life.members():
        if member.main and member.process.pid == os.getpid():
            member.path.unlink(missing_ok=True)
    if life != _life:  # another began in this process, as in tests
        return
    if _record is not None:
        _record.close()
    _life = _record = None
    os.environ.pop(VARIABLE, None)


def life() -> Life | None:
    """The life that this process belongs to, ``None`` outside a worker."""
    return _life


def own_record() -> Record | None:
    """The record of this process; made when it is first asked for. ``None`` outside a worker."""
    global _life, _record
    if _record is None and _life is not None:
        try:
            _record = Record(_life)
        except OSError as error:
            logger.warning("what this process holds can't be written down (%s): should it die, its ttl ends it", error)
            _life = None
    return _record


def write(token: str, name: str, key: str, task: str, task_id: str, store: str = DEFAULT_STORE) -> None:
    """Writes down a claim that is about to be made."""
    record = _record or own_record()
    if record is not None:
        try:
            record.write(token, name, key, task, task_id, store)
        except OSError as error:
            _full(error)


def granted(token: str) -> None:
    """Notes that a claim was granted."""
    if _record is not None:
        try:
            _record.granted(token)
        except OSError as error:
            _full(error)


def strike(token: str) -> None:
    """Strikes out a claim whose lease was given back, or is to last."""
    if _record is not None:
        try:
            _record.strike(token)
        except OSError as error:
            _full(error)


def _full(error: OSError) -> None:
    """The disk is full or gone: that is worth no task."""
    logger.warning("what this process holds can't be written down: %s", error)


def _in_forked_child() -> None:
    global _record
    if _record is not None:  # the parent's
        _record.close()
        _record = None


def _in_pool_process(**kwargs: Any) -> None:
    own_record()  # now, so that the first run needn't, and the worker knows of all its processes


os.register_at_fork(after_in_child=_in_forked_child)
worker_process_init.connect(_in_pool_process, weak=False, dispatch_uid="celery-locks-record")
