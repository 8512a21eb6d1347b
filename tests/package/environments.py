"""What a reader of the documentation has: an empty virtual environment, and none of the tests' variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Collection, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def make_linked(venv: Path, wheel: Path, extras: Collection[str], *others: str) -> Path:
    """Make a virtual environment as `make` does with the wheel, in seconds; return its folder.

    The wheel is unpacked. What it and its extras require, and the others, are links to the tests' own packages: the
    versions that `make` would install. A package that none of them requires is not there.
    """
    pip = ["pip"] if any(metadata.distributions(name="pip")) else []  # uv's environments have none
    _run(_PYTHON / "python3", "-m", "venv", *(["--without-pip"] if pip else []), venv)
    (packages,) = venv.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    (unpacked,) = metadata.distributions(name="celery-locks", path=[str(packages)])
    for found in required([unpacked], {"celery-locks": set(extras)}, *others, *pip):
        _link(found, packages, venv / "bin")
    return venv


def required(
    begin: list[metadata.Distribution], extras: dict[str, set[str]], *others: str
) -> list[metadata.Distribution]:
    """Return the installed distributions that these require, with these extras, directly or through others."""
    seen: dict[str, set[str]] = {}
    found: dict[str, metadata.Distribution] = {}
    open_requirements = [Requirement(text) for text in others]
    for each in begin:
        open_requirements += _requirements(each, extras.get(each.name, set()))
    while open_requirements:
        requirement = open_requirements.pop()
        name = canonicalize_name(requirement.name)
        new = (requirement.extras or {""}) - seen.get(name, set())
        if not new or name in extras:
            continue
        seen.setdefault(name, set()).update(new, {""})
        found[name] = metadata.distribution(name)
        open_requirements += _requirements(found[name], new)
    return list(found.values())


def _requirements(distribution: metadata.Distribution, extras: set[str]) -> list[Requirement]:
    all_of_it = [Requirement(text) for text in distribution.requires or ()]
    return [
        each
        for each in all_of_it
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in {"", *extras})
    ]


def _link(distribution: metadata.Distribution, packages: Path, programs: Path) -> None:
    """Link what a distribution has in ``site-packages``, and write its programs with the environment's Python."""
    for file in distribution.files or ():
        place = Path(str(distribution.locate_file(file)))
        if file.parts[0] == "..":
            if place.parent.name == "bin" and place.exists():
                _write_program(place, programs / place.name)
        elif file.parts[0] != "__pycache__" and not (packages / file.parts[0]).exists():
            (packages / file.parts[0]).symlink_to(distribution.locate_file(file.parts[0]))


def _write_program(ours: Path, theirs: Path) -> None:
    text = ours.read_bytes()
    if not text.startswith(b"#!"):
        theirs.symlink_to(ours)
        return
    theirs.write_bytes(f"#!{theirs.parent / 'python'}\n".encode() + text.partition(b"\n")[2])
    theirs.chmod(0o755)


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
