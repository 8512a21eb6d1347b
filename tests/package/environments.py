"""What a reader of the documentation has: an empty virtual environment, and none of the tests' variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from celery_locks.testing.local import processes

#: Variables that the reader doesn't have.
_OURS = re.compile(r"PYTHON(?!IOENCODING)|VIRTUAL_ENV|PYTEST|CELERY|HYPOTHESIS|COLUMNS|DJANGO")
_PYTHON = Path(sys.base_prefix, "bin")


def variables(venv: Path | None = None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The reader's variables: Python on the PATH, and nothing of the virtual environment of the tests.

    Args:
        venv: The virtual environment that the reader has activated.
        more: Further variables.
    """
    ours = {Path(sys.prefix, "bin"), Path(sys.executable).parent}
    path = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part) not in ours]
    path = [*([str(venv / "bin")] if venv else []), str(_PYTHON), *path]
    kept = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
    ours_too = {"PATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "PIP_CONSTRAINT": str(constraints())}
    return {**kept, **ours_too, **(more or {})}


@cache
def constraints() -> Path:
    """Return a file with the version of each package that the tests run with.

    Readers get the newest versions from pip. These tests give them the tests' own: those of the lock in `make test`, so
    that it passes tomorrow too, and the newest or the oldest ones where the tests run with these.
    """
    path = processes.make_folder() / "constraints.txt"
    installed = {found.name: found.version for found in metadata.distributions()}
    kept = sorted(f"{name}=={version}\n" for name, version in installed.items() if name not in ("celery-locks", "pip"))
    path.write_text("".join(kept))
    return path


def for_pip(wheel: Path) -> dict[str, str]:
    """Variables with which ``pip install celery-locks`` installs this wheel, and compiles nothing.

    Compiling all that is installed takes longer than what is used of it.
    """
    return {"PIP_FIND_LINKS": f"{wheel.parent} {os.environ.get('PIP_FIND_LINKS', '')}", "PIP_NO_COMPILE": "1"}


def make(venv: Path, *requirements: str) -> Path:
    """Makes a virtual environment, empty but for these; returns its folder.

    Raises:
        AssertionError: Something can't be installed; says what pip printed.
    """
    _run(_PYTHON / "python3", "-m", "venv", venv)
    if requirements:
        _run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile", *requirements)
    return venv


def compile_packages(venv: Path) -> None:
    """Compiles what workers import, where many are started: nodes of pytest-celery write nothing compiled."""
    (packages,) = venv.glob("lib/python*/site-packages")
    names = ("celery", "kombu", "billiard", "redis", "pytest_celery", "celery_locks")
    _run(venv / "bin" / "python", "-m", "compileall", "-q", *(packages / name for name in names))


def assert_has(venv: Path, wheel: Path) -> None:
    """Asserts that what is installed there is this wheel, and not another release."""
    (installed,) = venv.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if name.startswith("celery_locks/")]
        assert all((installed / name).read_bytes() == file.read(name) for name in names), "it is another release"


def _run(*argv: str | Path) -> None:
    done = subprocess.run(
        [str(part) for part in argv], env=variables(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, argv))}:\n{done.stdout}{done.stderr}"
