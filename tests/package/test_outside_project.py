"""A project outside of ours tests its tasks on real workers without Docker, and leaves no process."""

from __future__ import annotations

import secrets
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.package import environments
from tests.package.test_pages import DOCS, files
from tests.support import report

#: The files of the page that make the project. All others are more tests.
PROJECT = ("pytest.ini", "conftest.py", "tasks.py", "tests/workers/conftest.py", "tests/workers/test_workers.py")


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first one makes the environment
def test_two_calls_of_a_key_are_tested_and_no_process_is_left(readers_venv: Path, tmp_path: Path) -> None:
    page = files((DOCS / "how-to" / "testing.md").read_text())
    for name in PROJECT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(page[name])
    compile_packages(readers_venv)
    mark = secrets.token_hex(8)
    env = environments.variables(readers_venv, {"OUTSIDE_PROJECT": mark, "DOCKER_HOST": "unix:///nonexistent.sock"})
    began = time.monotonic()
    done = subprocess.run(
        ["pytest", "-q", f"{PROJECT[-1]}::test_two_calls_never_overlap"],
        executable=readers_venv / "bin" / "pytest",
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    report.say(f"A test of an outside project with a real worker took {time.monotonic() - began:.1f} s.")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert marked(mark) == []


@pytest.mark.slow
def test_a_process_that_is_left_is_found() -> None:
    mark = secrets.token_hex(8)
    with subprocess.Popen(["sleep", "60"], env={"OUTSIDE_PROJECT": mark}) as process:
        try:
            assert marked(mark) == [f"{process.pid} sleep 60"]
        finally:
            process.kill()
    assert marked(mark) == []


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
