"""A project outside of ours tests its tasks on real workers without Docker: how long it takes, and what is left."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.package import environments
from tests.package.test_pages import DOCS, files

#: The files of the page that make the project. All others are more tests.
PROJECT = ("pytest.ini", "conftest.py", "tasks.py", "tests/workers/conftest.py", "tests/workers/test_workers.py")
#: Seconds that pytest may take for that test, from its start to its end, on a machine that does nothing else.
LONGEST_SECONDS = 10.0
RUNS = 4
#: Keeps a processor busy for about a quarter of a second.
_BUSY = "import time\nwhile time.process_time() < 0.25: pass"


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first one makes the environment
def test_two_calls_of_a_key_are_tested_in_ten_seconds_and_no_process_is_left(
    readers_venv: Path, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    page = files((DOCS / "how-to" / "testing.md").read_text())
    for name in PROJECT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(page[name])
    compile_packages(readers_venv)
    mark = secrets.token_hex(8)
    env = environments.variables(readers_venv, {"OUTSIDE_PROJECT": mark, "DOCKER_HOST": "unix:///nonexistent.sock"})
    took: list[float] = []
    while len(took) < RUNS and not (took and min(took) <= LONGEST_SECONDS):
        share, began = processor_share(), time.monotonic()
        done = subprocess.run(
            ["pytest", "-q", f"{PROJECT[-1]}::test_two_calls_never_overlap"],
            executable=readers_venv / "bin" / "pytest",
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        seconds = time.monotonic() - began
        took.append(seconds * (share + processor_share()) / 2)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed" in done.stdout
        assert marked(mark) == []
    record_property("seconds", min(took))
    assert min(took) <= LONGEST_SECONDS, took


@pytest.mark.slow
def test_a_process_that_is_left_is_found() -> None:
    mark = secrets.token_hex(8)
    with subprocess.Popen(["sleep", "60"], env={"OUTSIDE_PROJECT": mark}) as process:
        try:
            assert marked(mark) == [f"{process.pid} sleep 60"]
        finally:
            process.kill()
    assert marked(mark) == []


def processor_share() -> float:
    """Return how much of a processor one process gets now: 1.0, or less while other tests run."""
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _BUSY]) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return min(1.0, (used.ru_utime + used.ru_stime) / (time.monotonic() - began))


def marked(mark: str) -> list[str]:
    """The processes that a run of pytest started, at any depth: they have its variable."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("OUTSIDE_PROJECT") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def compile_packages(venv: Path) -> None:
    """Compiles what workers import, as pip does for a reader: it did not here, and nodes write nothing compiled."""
    (packages,) = venv.glob("lib/python*/site-packages")
    names = [packages / name for name in ("celery", "kombu", "billiard", "redis", "pytest_celery", "celery_locks")]
    subprocess.run([venv / "bin" / "python", "-m", "compileall", "-q", *names], timeout=110, check=True)
