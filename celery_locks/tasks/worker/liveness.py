"""The folders of the workers on this machine, with a file for each process, and the proof that a process is dead.

``<base>/celery-locks-<user>/<site>/<boot id>.<pid namespace>.<random>/<process>``

A process keeps its file locked by ``flock``. The kernel releases that lock when the last thread of the process has
ended, and not before, which proves its death. This holds across containers: processes that see one file share one
kernel. If the process id has a meaning in this pid namespace, that process must be gone as well. This protects against
code that closes files of others.

A worker is identified by its folder, and never by its name or host. A folder of another boot proves nothing, nor does
one of another machine on a shared network drive. These folders are left alone.

The last worker of a site removes the site's folder, and the last worker of a user the user's folder. So a folder may
vanish between two steps of `new_worker_folder`, which then tries again.
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

#: The environment variable with the folder. The setting takes precedence.
FOLDER_VARIABLE = "CELERY_LOCKS_FOLDER"
#: In memory, so that no write waits for a disk.
_DEFAULT_FOLDERS = ("/dev/shm", "/run/shm")
_PROCESS = re.compile(r"(main\.)?(\d+)\.(\d+)")
#: How often `new_worker_folder` tries, if other workers end at that moment.
_MAX_TRIES = 20


@dataclass(frozen=True)
class Process:
    """A process, distinguished from other processes with the same process id.

    Attributes:
        pid: Its process id in its own pid namespace.
        start: When it was started, in ticks since the machine's start; 0 if the system does not report it.
    """

    pid: int
    start: int

    @classmethod
    def current(cls) -> Process:
        """Return this process."""
        try:
            return cls(os.getpid(), _state_of(os.getpid())[1])
        except (OSError, ValueError, IndexError):
            return cls(os.getpid(), 0)

    def may_run(self) -> bool:
        """Return whether it may still be running, as the system reports it. A zombie is not running."""
        try:
            state, start = _state_of(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return not _has_proc() and _answers(self.pid)
        except (OSError, ValueError, IndexError):  # unknown
            return True
        return state not in "ZX" and self.start in (0, start)


@dataclass(frozen=True)
class ProcessFile:
    """The journal file of a process in its worker's folder."""

    path: Path
    process: Process
    main: bool

    def is_dead(self, fd: int, same_namespace: bool) -> bool:
        """Return whether its process is dead. If so, this process has locked the file.

        Args:
            fd: The open file.
            same_namespace: Whether its process id has a meaning in this pid namespace.
        """
        if same_namespace and self.process.pid != os.getpid() and self.process.may_run():
            return False
        return lock_file(fd)


@dataclass(frozen=True)
class WorkerFolder:
    """The folder of one worker, from its start to its end."""

    path: Path

    @property
    def same_boot(self) -> bool:
        """Whether it is known to be of this boot of this machine."""
        return _boot_id() != "0" and self._parts[0] == _boot_id()

    @property
    def same_namespace(self) -> bool:
        """Whether the ids of its processes have a meaning in this pid namespace."""
        return self.same_boot and self._parts[1] == _pid_namespace()

    @property
    def is_published(self) -> bool:
        """Whether other workers see it, because its main process has its file there."""
        return not self.path.name.startswith(".")

    @property
    def _parts(self) -> list[str]:
        return self.path.name.removeprefix(".").split(".")

    def process_files(self) -> list[ProcessFile]:
        """Return the files of its processes, the worker's main process first."""
        names = filter(None, map(_PROCESS.fullmatch, _names(self.path)))
        files = [ProcessFile(self.path / name[0], Process(int(name[2]), int(name[3])), bool(name[1])) for name in names]
        return sorted(files, key=lambda file: not file.main)

    def others_of_site(self) -> list[WorkerFolder]:
        """Return the published folders of other workers of the same site and boot."""
        folders = _folders_of(self.path.parent)
        return [folder for folder in folders if folder != self and folder.is_published and folder.same_boot]

    def others_of_user(self) -> list[WorkerFolder]:
        """Return the other folders of this boot and user: those of other sites, and unpublished ones."""
        site, user = self.path.parent, self.path.parent.parent
        folders = [folder for name in _names(user) for folder in _folders_of(user / name) if folder.same_boot]
        return [folder for folder in folders if not (folder.is_published and folder.path.parent == site)]

    def publish(self) -> WorkerFolder:
        """Rename the folder so that other workers see it, when its main process has its file there."""
        path = self.path.with_name(self.path.name.removeprefix("."))
        self.path.rename(path)
        return WorkerFolder(path)

    def remove(self) -> None:
        """Remove the folder if no process is left in it, and the folders of its site and user if they are empty."""
        if self.process_files():
            return
        with suppress(OSError):  # another worker removes it too, or a process came: the next reaper tries again
            for name in _names(self.path):  # of processes that died before their file was ready
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.path, self.path.parent, self.path.parent.parent):
                folder.rmdir()


def new_worker_folder(site: str | None, folder: str | None) -> WorkerFolder:
    """Make the folder of a worker that starts. Other workers ignore it until it is published.

    Args:
        site: The stores and the prefix of its leases. Workers of one site release what their dead processes held.
            ``None`` for a site of its own.
        folder: The folder for the folders of all workers; ``None`` for memory, or the system's folder for temporary
            files.

    Raises:
        LockConfigError: The folder for all workers does not exist.
        OSError: The folder can't be made.
    """
    if fcntl is None:
        raise OSError("this system can't lock files")
    base = Path(folder) if folder else _default_folder()
    if not base.is_dir():
        raise LockConfigError(f"{FOLDER}: there is no folder {base}")
    user = base / f"celery-locks-{os.geteuid()}"
    parent = user / hashlib.sha256((site or secrets.token_hex(16)).encode()).hexdigest()[:16]
    path = parent / f".{_boot_id()}.{_pid_namespace()}.{secrets.token_hex(8)}"
    for _ in range(_MAX_TRIES):
        with suppress(FileNotFoundError):  # a worker that ended has just removed an empty folder
            for above in (user, parent):
                with suppress(FileExistsError):  # not `exist_ok`, which fails if the folder is removed just then
                    above.mkdir(mode=0o700)
            _check_own_folder(user)
            path.mkdir(mode=0o700)
            return WorkerFolder(path)
    raise FileNotFoundError(f"{parent} was removed {_MAX_TRIES} times while it was made")


def lock_file(fd: int) -> bool:
    """Lock an open file. Return whether this process has the lock now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _check_own_folder(path: Path) -> None:
    """Check that no other user can use the folder, because owner tokens in it would let them release leases.

    Raises:
        OSError: Another user owns the folder, or may read it.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise OSError(f"other users have access to {path}: remove it, or set {FOLDER}")


def _default_folder() -> Path:
    for folder in _DEFAULT_FOLDERS:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    return Path(tempfile.gettempdir())


def _folders_of(site: Path) -> list[WorkerFolder]:
    return [WorkerFolder(site / name) for name in _names(site)]


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
    """Return the id of this boot of the kernel, which all its containers share; ``"0"`` if there is none."""
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
    """Return the state and the start of a process."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    fields = text.rpartition(")")[2].split()  # the process's name, in parentheses, may contain any character
    return fields[0], int(fields[19])


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
