"""Subprocesses that end with the tests, whatever ends those.

Each process gets a group of its own. A *reaper*, one small process alongside the tests, reads the groups' numbers from
a pipe. Its end of file means that the test process is gone, by SIGKILL too: then the reaper kills what is left. Unlike
Linux's death signal for children this doesn't depend on which thread started a process, and works on macOS.
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

_REAPER = """
import os, shutil, signal, sys
groups, folders = set(), set()
for line in sys.stdin:
    verb, what = line.rstrip("\\n").split(" ", 1)
    wanted = groups if verb.endswith("group") else folders
    (wanted.add if verb.startswith("add") else wanted.discard)(what)
for group in groups:
    try:
        os.killpg(int(group), signal.SIGKILL)
    except OSError:
        pass
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""

_lock = threading.Lock()
_reaper: subprocess.Popen[str] | None = None


def _notify_reaper(message: str) -> None:
    global _reaper
    with _lock:
        if _reaper is None:
            argv = [sys.executable, "-I", "-S", "-c", _REAPER]
            _reaper = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, start_new_session=True)
        assert _reaper.stdin is not None
        _reaper.stdin.write(message + "\n")
        _reaper.stdin.flush()


def _forget_reaper() -> None:
    """In a forked child: the pipe must end with the test process, not with the last of its children."""
    global _lock, _reaper
    _lock = threading.Lock()
    if _reaper is not None and _reaper.stdin is not None:
        with contextlib.suppress(OSError):
            _reaper.stdin.close()
        _reaper.returncode = 0  # it is no child of this process: nothing to wait for
        _reaper = None


os.register_at_fork(after_in_child=_forget_reaper)


def start(
    argv: Sequence[str | Path],
    *,
    output: IO[bytes] | int,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, with no input; it is killed, with its group, when the tests end."""
    process = subprocess.Popen(
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
    _notify_reaper(f"add-group {process.pid}")
    return process


def end(process: subprocess.Popen[bytes], *, grace: float = 0, sig: int = signal.SIGTERM) -> int:
    """End a process with all of its group and all below it; return its exit status.

    Args:
        process: One that `start` returned.
        grace: Seconds that it gets to end by itself after `sig`; 0 kills immediately.
        sig: The signal that asks it to end.
    """
    # Looked for before it ends: then they have another parent, and its number may be another process's.
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
    _notify_reaper(f"drop-group {process.pid}")
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
    """Make a folder that goes with the tests, with a path short enough for a Unix socket in it (104 bytes)."""
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="cl-", dir="/tmp" if len(parent) > 60 else parent)
    _notify_reaper(f"add-folder {folder}")
    return Path(folder)


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _notify_reaper(f"drop-folder {folder}")


def alive(pid: int) -> bool:
    """Return whether a process runs. A zombie doesn't."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def children(pid: int) -> list[int]:
    """Return the numbers of the processes that a process started, without zombies."""
    return sorted(child.pid for child in psutil.Process(pid).children() if alive(child.pid))
