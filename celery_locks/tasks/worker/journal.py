"""A journal of the claims of this process, which its worker reads if the process dies.

Each process has a file in the folder of its worker. The file has slots of a fixed size. One system call within a page
writes a slot, so the death of the process leaves each slot either old or new. A run spends some 7 µs on it.

A claim is added before it is sent, and removed after its lease was released. So a journal may list leases that have
ended, but never omits one. A reader releases leases by their owner tokens, which has no effect on an ended lease.
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
from celery_locks._runtime.process import after_fork_in_child
from celery_locks._validation import DEFAULT_STORE
from celery_locks.tasks.worker.liveness import Process, WorkerFolder, lock_file, new_worker_folder

logger = _logging.logger(__name__)

#: The environment variable with the folder of the worker, for child processes that are not forked.
VARIABLE = "CELERY_LOCKS_LIFE"
#: The bytes of a slot: a divisor of every system's page size.
SLOT_BYTES = 2048
#: When the claim was granted (0: not yet), and the length of the text (0: the slot is free).
_HEADER = struct.Struct("<dI")
_FREE = _HEADER.pack(0.0, 0)
_GRANTED = struct.Struct("<d")


@dataclass(frozen=True)
class JournalEntry:
    """A claim in a journal.

    Attributes:
        token: The owner token.
        name: The lock's full name in the store.
        key: The key.
        task: The task's name.
        task_id: The task's id.
        since: When it was granted, in seconds since 1970; 0 if that is not known.
        store: The name of the store.
    """

    token: str
    name: str
    key: str
    task: str
    task_id: str
    since: float
    store: str


class Journal:
    """The journal of this process.

    Args:
        folder: The folder of its worker.
        main: Whether this is the worker's main process.

    Raises:
        OSError: The file can't be written.
    """

    def __init__(self, folder: WorkerFolder, main: bool = False) -> None:
        me = Process.current()
        path = folder.path / f"{'main.' * main}{me.pid}.{me.start}"
        hidden = path.with_name(f".{path.name}")  # until it is locked, because an unlocked file proves its process dead
        self.fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.path = path
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._new = itertools.count()
        if not lock_file(self.fd):
            raise OSError(f"{hidden} can't be locked")
        hidden.rename(path)

    def add(self, token: str, *rest: str) -> None:
        """Write a claim to a slot: token, name, key, task, task id, store."""
        data = "\0".join((token, *rest)).encode("utf-8", "surrogatepass")
        if len(data) > SLOT_BYTES - _HEADER.size or data.count(b"\0") != len(rest):
            return  # rare: if the process dies, the lease ends with its ttl
        try:
            slot = self._free.pop()
        except IndexError:
            slot = next(self._new)
        self._slots[token] = slot
        self._write(slot, _HEADER.pack(0.0, len(data)) + data)

    def mark_granted(self, token: str) -> None:
        """Write that a claim was granted."""
        slot = self._slots.get(token)
        if slot is not None:
            self._write(slot, _GRANTED.pack(wall_time()))

    def remove(self, token: str) -> None:
        """Mark the slot of a claim as free."""
        slot = self._slots.pop(token, None)
        if slot is not None:
            self._write(slot, _FREE)
            self._free.append(slot)

    def _write(self, slot: int, data: bytes) -> None:
        try:
            os.pwrite(self.fd, data, slot * SLOT_BYTES)
        except OSError as error:  # the disk is full or gone; the task goes on
            logger.warning("the journal of this process can't be written: %s", error)

    def close(self) -> None:
        """Close the file. It is not removed."""
        os.close(self.fd)


def read(fd: int) -> list[JournalEntry]:
    """Return the claims in a journal."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    slots = (data[start : start + SLOT_BYTES] for start in range(0, len(data), SLOT_BYTES))
    return [entry for slot in slots if (entry := _entry_of(slot)) is not None]


def _entry_of(slot: bytes) -> JournalEntry | None:
    if len(slot) < _HEADER.size:
        return None
    since, length = _HEADER.unpack_from(slot)
    parts = slot[_HEADER.size : _HEADER.size + length].decode("utf-8", "replace").split("\0")
    if not length or len(parts) not in (5, 6):  # the previous version has no store
        return None
    token, name, key, task, task_id = parts[:5]
    return JournalEntry(token, name, key, task, task_id, since, parts[5] if len(parts) == 6 else DEFAULT_STORE)


# This process ---------------------------------------------------------------------------------------------------------


class _State:
    """The folder of the worker that this process belongs to, and the journal of this process."""

    folder: WorkerFolder | None = WorkerFolder(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else None
    journal: Journal | None = None


_state = _State()


def begin(site: str | None, base: str | None) -> WorkerFolder:
    """Make the folder of the worker whose main process this is; see `new_worker_folder`."""
    folder = new_worker_folder(site, base)
    _state.journal = Journal(folder, main=True)
    _state.folder = folder.publish()
    _state.journal.path = _state.folder.path / _state.journal.path.name
    os.environ[VARIABLE] = str(_state.folder.path)
    return _state.folder


def end(folder: WorkerFolder) -> None:
    """Remove the journal of this process, the main one of a worker, which has released all its leases."""
    for file in folder.process_files():
        if file.main and file.process.pid == os.getpid():
            file.path.unlink(missing_ok=True)
    if folder != _state.folder:  # another worker began in this process, as in tests
        return
    if _state.journal is not None:
        _state.journal.close()
    _state.folder = _state.journal = None
    os.environ.pop(VARIABLE, None)


def worker_folder() -> WorkerFolder | None:
    """Return the folder of the worker that this process belongs to, ``None`` outside a worker."""
    return _state.folder


def own_journal() -> Journal | None:
    """Return the journal of this process, made at the first use; ``None`` outside a worker."""
    if _state.journal is None and _state.folder is not None:
        try:
            _state.journal = Journal(_state.folder)
        except OSError as error:
            logger.warning(
                "the journal of this process can't be written (%s): if the process dies, its leases end with their ttl",
                error,
            )
            _state.folder = None
    return _state.journal


def add_claim(token: str, name: str, key: str, task: str, task_id: str, store: str = DEFAULT_STORE) -> None:
    """Record a claim that is about to be sent."""
    journal = _state.journal or own_journal()
    if journal is not None:
        journal.add(token, name, key, task, task_id, store)


def mark_granted(token: str) -> None:
    """Record that a claim was granted."""
    if _state.journal is not None:
        _state.journal.mark_granted(token)


def remove_claim(token: str) -> None:
    """Remove a claim whose lease was released, or is to last until its ttl ends."""
    if _state.journal is not None:
        _state.journal.remove(token)


@after_fork_in_child
def _close_journal_of_parent() -> None:
    if _state.journal is not None:
        _state.journal.close()
        _state.journal = None


def _in_pool_process(**kwargs: Any) -> None:
    own_journal()  # made now, so that the first run is quick, and the worker knows all its processes


worker_process_init.connect(_in_pool_process, weak=False, dispatch_uid="celery-locks-record")
