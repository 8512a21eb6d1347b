"""Subprocesses that end with the tests, also when the tests are killed.

Each process gets a group of its own. A *reaper*, a small process alongside the tests, reads the numbers of the groups
from a pipe. When the pipe ends, the test process is gone, and the reaper kills the groups that are left. Linux's death
signal for children would depend on the thread that started a process, and macOS has none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from celery_locks._runtime import process

_REAPER = """
import os, shutil, signal, sys
known = {"group": set(), "folder": set()}
for line in sys.stdin:
    action, kind, name = line.rstrip("\\n").split(" ", 2)
    getattr(known[kind], action)(name)
for group in known["group"]:
    try:
        os.killpg(int(group), signal.SIGKILL)
    except OSError:
        pass
for folder in known["folder"]:
    shutil.rmtree(folder, ignore_errors=True)
"""


class _Reaper:
    """The process that removes what the tests leave behind. It starts with the first message to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def notify(self, message: str) -> None:
        """Send ``add group N``, ``discard group N``, or the same for a folder."""
        with self._lock:
            if self._process is None:
                argv = [sys.executable, "-I", "-S", "-c", _REAPER]
                self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, start_new_session=True)
            assert self._process.stdin is not None
            self._process.stdin.write(message + "\n")
            self._process.stdin.flush()

    def forget(self) -> None:
        """Close the pipe in a forked child: it must end with the test process, not with the last of its children."""
        self._lock = threading.Lock()
        reaper, self._process = self._process, None
        if reaper is not None and reaper.stdin is not None:
            with contextlib.suppress(OSError):
                reaper.stdin.close()
            reaper.returncode = 0  # it is no child of this process, so there is nothing to wait for


_reaper = _Reaper()
process.after_fork_in_child(_reaper.forget)


def start(
    argv: Sequence[str | Path],
    *,
    output: IO[bytes] | int,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, with no input; it is killed, with its group, when the tests end."""
    started = subprocess.Popen(
        [str(part) for part in argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=cwd,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=None if user is None else (),
    )
    _reaper.notify(f"add group {started.pid}")
    return started


def end(process: subprocess.Popen[bytes], *, grace: float = 0, sig: int = signal.SIGTERM) -> int:
    """End a process with all of its group and all below it; return its exit status.

    Args:
        process: One that `start` returned.
        grace: Seconds that it gets to end by itself after `sig`; 0 kills immediately.
        sig: The signal that asks it to end.
    """
    # Found before it ends: afterwards they have another parent, and its number may belong to another process.
    others = _in_other_groups(process.pid) if process.poll() is None else []
    if grace and process.poll() is None:
        process.send_signal(sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: no permission for a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    for other in others:
        with contextlib.suppress(psutil.Error):
            other.kill()
    status = process.wait()
    _reaper.notify(f"discard group {process.pid}")
    return status


def _in_other_groups(pid: int) -> list[psutil.Process]:
    """Return the processes below one that left its group: a task may start them in a session of their own."""
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(process.pid) != pid:
                    found.append(process)
    return found


def make_folder() -> Path:
    """Make a folder that is removed with the tests. Its path is short enough for a Unix socket in it (104 bytes)."""
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="cl-", dir="/tmp" if len(parent) > 60 else parent)
    _reaper.notify(f"add folder {folder}")
    return Path(folder)


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _reaper.notify(f"discard folder {folder}")


def alive(pid: int) -> bool:
    """Return whether a process runs. A zombie doesn't."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def children(pid: int) -> list[int]:
    """Return the numbers of the processes that a process started, without zombies."""
    return sorted(child.pid for child in psutil.Process(pid).children() if alive(child.pid))
