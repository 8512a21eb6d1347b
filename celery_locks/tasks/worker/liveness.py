"""The lives of workers on this machine: a folder for each, in it a file for each process, and what proves one dead.

``<base>/celery-locks-<user>/<site>/<boot id>.<pid namespace>.<random>/<process>``

A process keeps its file locked (``flock``) for as long as it lives: the kernel takes the lock away when the last of its
threads has ended, and not before. That is proof by itself, in containers too, since a file that two can see has one
kernel. Where its process id means something here it must be gone as well, which guards against code that closes files
it does not own. A worker is known by its folder, never by its name or host: a folder of another boot (or of another
machine, where a network drive is shared) proves nothing, and is left alone.

The last worker of a site to end removes the site's folder, and the last of all the user's. So a folder may vanish
between two steps of `new_life`, which then begins again.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from celery_locks.errors import LockConfigError
from celery_locks.tasks.app_settings import FOLDER

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where Celery has no workers that matter here
    fcntl = None  # type: ignore[assignment]

#: Names the folder where the setting does not.
FOLDER_VARIABLE = "CELERY_LOCKS_FOLDER"
#: In memory, so that no disk is waited for.
_DEFAULTS = ("/dev/shm", "/run/shm")
_PROCESS = re.compile(r"(main\.)?(\d+)\.(\d+)")
#: How often `new_life` begins again, where other workers end at that moment.
_TRIES = 20


@dataclass(frozen=True)
class Process:
    """A process, told apart from all others that had or will have its number.

    Attributes:
        pid: Its number in its own pid namespace.
        start: When it was started, in ticks since the machine was; 0 where the system doesn't say.
    """

    pid: int
    start: int

    @classmethod
    def me(cls) -> Process:
        """This one."""
        try:
            return cls(os.getpid(), _state_of(os.getpid())[1])
        except (OSError, ValueError, IndexError):
            return cls(os.getpid(), 0)

    def runs(self) -> bool:
        """Whether it may still be running, by what the system says. A zombie isn't."""
        try:
            state, start = _state_of(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return not _has_proc() and _answers(self.pid)
        except (OSError, ValueError, IndexError):  # no word of it
            return True
        return state not in "ZX" and self.start in (0, start)


@dataclass(frozen=True)
class Member:
    """The file of a process in a life's folder."""

    path: Path
    process: Process
    main: bool

    def is_dead(self, fd: int, same_namespace: bool) -> bool:
        """Whether its process is dead. Then its file, open as ``fd``, is locked by this process from now on.

        Args:
            fd: The file.
            same_namespace: Whether its process id means something here.
        """
        if same_namespace and self.process.pid != os.getpid() and self.process.runs():
            return False
        return lock_file(fd)


@dataclass(frozen=True)
class Life:
    """A life of a worker, known by its folder."""

    path: Path

    @property
    def same_boot(self) -> bool:
        """Whether it is of this boot of this machine, as far as that is known."""
        return _boot_id() != "0" and self._parts[0] == _boot_id()

    @property
    def same_namespace(self) -> bool:
        """Whether the ids of its processes mean something here."""
        return self.same_boot and self._parts[1] == _pid_namespace()

    @property
    def published(self) -> bool:
        """Whether its main process has its file there."""
        return not self.path.name.startswith(".")

    @property
    def _parts(self) -> list[str]:
        return self.path.name.removeprefix(".").split(".")

    def members(self) -> list[Member]:
        """Its processes, the worker's main one first."""
        found = filter(None, map(_PROCESS.fullmatch, _names(self.path)))
        members = [Member(self.path / name[0], Process(int(name[2]), int(name[3])), bool(name[1])) for name in found]
        return sorted(members, key=lambda member: not member.main)

    def siblings(self) -> list[Life]:
        """Other lives of the same site and boot."""
        return [life for life in _lives(self.path.parent) if life != self and life.published and life.same_boot]

    def strangers(self) -> list[Life]:
        """Lives of this boot and user that are no siblings: those of other sites, and those not published."""
        site, user = self.path.parent, self.path.parent.parent
        lives = [life for name in _names(user) for life in _lives(user / name)]
        return [life for life in lives if life.same_boot and not (life.published and life.path.parent == site)]

    def remove(self) -> None:
        """Remove its folder if no process is left in it, and the folders of its site and user if they are empty."""
        if self.members():
            return
        with suppress(OSError):  # another removes it too, or a process came: the next reaper tries again
            for name in _names(self.path):  # of those that died before their file was ready
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.path, self.path.parent, self.path.parent.parent):
                folder.rmdir()


def new_life(site: str | None, folder: str | None) -> Life:
    """Makes the folder of a life that begins now; nobody looks at it before it is `published`.

    Args:
        site: What its leases are of: a store and a prefix. Lives of one site look after each other; one of ``None``
            is alone.
        folder: Under which folder; ``None`` for memory or the system's folder for temporary files.

    Raises:
        LockConfigError: The folder is not there.
        OSError: It can't be made.
    """
    if fcntl is None:
        raise OSError("this system can't lock files")
    base = Path(folder) if folder else _default_folder()
    if not base.is_dir():
        raise LockConfigError(f"{FOLDER}: there is no folder {base}")
    user = base / f"celery-locks-{os.geteuid()}"
    parent = user / hashlib.sha256((site or secrets.token_hex(16)).encode()).hexdigest()[:16]
    path = parent / f".{_boot_id()}.{_pid_namespace()}.{secrets.token_hex(8)}"
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):  # a worker that ended removed an empty folder meanwhile
            for above in (user, parent):
                with suppress(FileExistsError):  # not `exist_ok`, which fails if the folder is removed just then
                    above.mkdir(mode=0o700)
            _check_own_folder(user)
            path.mkdir(mode=0o700)
            return Life(path)
    raise FileNotFoundError(f"{parent} is removed whenever it is made")


def published(life: Life) -> Life:
    """The life, in the place where others see it: once its main process has its file there."""
    path = life.path.with_name(life.path.name.removeprefix("."))
    life.path.rename(path)
    return Life(path)


def lock_file(fd: int) -> bool:
    """Locks an open file, unless another has it or the file system can't."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _check_own_folder(path: Path) -> None:
    """Raise `OSError` if others have the folder: what lies in it would let them release leases."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise OSError(f"{path} is not this user's alone: remove it, or set {FOLDER}")


def _default_folder() -> Path:
    for folder in _DEFAULTS:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    return Path(tempfile.gettempdir())


def _lives(site: Path) -> list[Life]:
    return [Life(site / name) for name in _names(site)]


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


@cache
def _has_proc() -> bool:
    return os.path.exists("/proc/self/stat")


@cache
def _boot_id() -> str:
    """Of this boot of this kernel, the same in all its containers; "0" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "") or "0"
    except OSError:
        return "0"


@cache
def _pid_namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "0"


def _state_of(pid: int) -> tuple[str, int]:
    """State and start of a process."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    fields = text.rpartition(")")[2].split()  # its name, in parentheses, may hold anything
    return fields[0], int(fields[19])


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
