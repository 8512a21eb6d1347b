"""The location of a SQLite file: the kind of its disk, and whether all its users share one write-ahead log.

SQLite finds the log by the file's name. A file may have two names: by a hard link, or by mounting the file itself into
two containers. Then it has two logs, and users of one don't see what is in the other.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from celery_locks._runtime import threads
from celery_locks._runtime.process import PerProcess, after_fork_in_child
from celery_locks.errors import StoreUnavailable

#: Kinds of file systems on which SQLite's locks or shared memory are not reliable between machines.
NETWORK = re.compile(r"nfs|cifs|smb|sshfs|9p|afs|ceph|gluster|lustre|gfs2|ocfs2|beegfs|vboxsf|prl_fs|vmhgfs")

#: The range of bytes that represent names of a file. SQLite's own locks and all data are below.
FIRST_BYTE, BYTES = 1 << 40, 1 << 32
#: Linux' locks that belong to an open file, not to a process. Python offers them on no other system.
_SET, _GET = getattr(fcntl, "F_OFD_SETLK", None), getattr(fcntl, "F_OFD_GETLK", None)
#: ``struct flock``: type, whence, start, length, process.
_FLOCK = "hhqqi"


@dataclass
class _Used:
    """A file that this process uses.

    Attributes:
        file: The file descriptor for the locks of this module. It stays open, because closing it would end the locks
            of SQLite on the same file in this process.
        byte: The byte that represents the name in use; 0 without users.
        users: The number of users in this process.
    """

    file: int
    byte: int = 0
    users: int = 0


#: By device and inode.
_used: dict[tuple[int, int], _Used] = {}
_mutex = PerProcess(threads.RLock)


def claim_place(path: str) -> Callable[[], None]:
    """Record that this process uses a file by this name.

    Returns:
        A function to call when the file is no longer in use.

    Raises:
        StoreUnavailable: The file is in use by another name as well.
    """
    with _mutex():
        try:
            used, byte = _open(path), FIRST_BYTE + _number_of(path)
            claimed = byte if used.users else _claim(used.file, byte)
        except OSError:  # no locks on this file system, or SQLite reports what is wrong
            return lambda: None
        if claimed != byte or used.byte not in (0, byte):
            raise StoreUnavailable(
                f"the lock store {path} has a second name in use, and each name has a log of its own: {MOUNT_REMEDY}"
            )
        used.byte, used.users = byte, used.users + 1
        return partial(_give_up, used)


def _open(path: str) -> _Used:
    for place, used in list(_used.items()):
        if not used.users and os.fstat(used.file).st_nlink == 0:  # deleted meanwhile
            os.close(_used.pop(place).file)
    with suppress(FileNotFoundError):
        found = os.stat(path)
        if (found.st_dev, found.st_ino) in _used:
            return _used[found.st_dev, found.st_ino]
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    found = os.fstat(file)
    return _used.setdefault((found.st_dev, found.st_ino), _Used(file))


def _claim(file: int, byte: int) -> int:
    """Lock the byte of a name. Return it, or 0 if another process uses another name."""
    _lock(file, fcntl.F_RDLCK, byte)
    for start, end in ((FIRST_BYTE, byte), (byte + 1, FIRST_BYTE + BYTES)):
        if start < end and _is_locked(file, start, end - start):
            _lock(file, fcntl.F_UNLCK, byte)
            return 0
    return byte


def _give_up(used: _Used) -> None:
    with _mutex(), suppress(OSError):
        used.users -= 1
        if not used.users:
            _lock(used.file, fcntl.F_UNLCK, used.byte)
            used.byte = 0


def _lock(file: int, kind: int, byte: int) -> None:
    if _SET is None:
        raise OSError("this system has no locks of open files")
    fcntl.fcntl(file, _SET, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))


@after_fork_in_child
def _close_inherited_files() -> None:
    # The parent's locks belong to the same open file, so the child must open its own.
    while _used:
        os.close(_used.popitem()[1].file)


#: The remedy for a file with two names.
MOUNT_REMEDY = "mount the folder of the file, not the file by itself, and use one name for it"


def _number_of(path: str) -> int:
    """Return a number for the name of a file: the same wherever its folder is mounted."""
    folder, name = os.path.split(os.path.realpath(path))
    found = os.stat(folder)
    text = f"{found.st_dev} {found.st_ino} {name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "big")


def _is_locked(file: int, start: int, size: int) -> bool:
    assert _GET is not None
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, size, 0)
    kind: int = struct.unpack(_FLOCK, fcntl.fcntl(file, _GET, asked))[0]
    return kind != fcntl.F_UNLCK


@contextmanager
def folder_lock(folder: str) -> Iterator[None]:
    """Lock a folder against other callers of this function.

    Raises:
        sqlite3.OperationalError: Another caller has locked it.
    """
    try:
        file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # SQLite reports why
        yield
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise sqlite3.OperationalError(f"the folder {folder} is locked") from None
        except OSError:  # no locks on this file system
            pass
        yield
    finally:
        os.close(file)


def place_checks(path: str) -> dict[str, str]:
    """Return the checks of a file's location, as `Store.checks` does."""
    real = os.path.realpath(path)
    try:
        links, space = os.stat(real).st_nlink, os.statvfs(real)
    except OSError as error:
        why = f"not known: {error}"
        return {"name": why, "disk": why, "space": why}
    mounts = _mounts()
    point = max((point for point in mounts if _is_within(real, point)), key=len, default="")
    kind, free = mounts.get(point, ""), space.f_bavail * space.f_frsize
    return {
        "name": f"{path} has a second name, or is mounted by itself: {MOUNT_REMEDY}"
        if real in mounts or links > 1
        else "",
        "disk": (
            f"{path} is on a network file system ({kind}), on which SQLite's locks can't be relied on: {MOVE_REMEDY}"
            if NETWORK.search(kind)
            else ""
            if kind
            else "not known: the system does not list its file systems"
        ),
        "space": f"the disk of {path} has {free // 1024} KiB left: free some of it" if free < LEAST_FREE_BYTES else "",
    }


#: The remedy for a file system on which SQLite does not work.
MOVE_REMEDY = "move the file to a disk of this machine, or use another store"
#: Free bytes below which a disk counts as full.
LEAST_FREE_BYTES = 16 * 1024 * 1024


def _mounts() -> dict[str, str]:
    """Return the kind of file system by mount point; empty if the system does not list them. See ``man proc``."""
    found: dict[str, str] = {}
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
            found[point] = after.split()[0]
    return found


def _is_within(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")
