"""What is released: a wheel and an sdist that have all that the package needs, and nothing else."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from tests.package.conftest import Built, build
from tests.support.celery_worker import ROOT

#: What an installed copy reads at run time; without one of these it breaks where nobody looks.
DATA = (".lua", ".html", ".js", ".css", "py.typed")
#: hatchling always takes .gitignore along: it says what a build from the sdist leaves out.
BESIDE = {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "SECURITY.md", "pyproject.toml"}


def source() -> set[str]:
    """The files of the package, in the working copy."""
    inside = (path for path in (ROOT / "celery_locks").rglob("*") if path.is_file())
    names = {path.relative_to(ROOT).as_posix() for path in inside if "__pycache__" not in path.parts}
    return names | {"pytest_celery_locks.py"}


def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def names_in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as file:
        return {name.partition("/")[2] for name in file.getnames()}


def test_the_working_copy_has_what_is_looked_for() -> None:
    assert all(any(name.endswith(end) for name in source()) for end in DATA)


def test_the_wheel_is_the_package(built: Built) -> None:
    names = names_in_wheel(built.wheel)
    assert {name for name in names if ".dist-info/" not in name} == source()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_is_the_package_with_what_belongs_to_it(built: Built) -> None:
    assert names_in_sdist(built.sdist) == source() | BESIDE


@pytest.mark.slow
def test_a_wheel_from_the_sdist_is_the_same(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    build(unpacked, tmp_path, "wheel")
    (again,) = tmp_path.glob("*.whl")
    assert again.read_bytes() == built.wheel.read_bytes()


def test_the_metadata(built: Built) -> None:
    import celery_locks

    metadata = metadata_of(built.wheel)
    assert metadata["Version"] == celery_locks.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("Requires-Dist", [])[0] == "celery>=5.5"
    assert {entry.partition(",")[0] for entry in metadata.get_all("Project-URL", [])} == {
        "Changelog",
        "Documentation",
        "Issues",
        "Source",
    }
    classifiers = metadata.get_all("Classifier", [])
    assert "Typing :: Typed" in classifiers
    pythons = [f"3.{minor}" for minor in range(10, 15)]
    assert [python for python in pythons if f"Programming Language :: Python :: {python}" not in classifiers] == []


def test_the_extras_are_what_users_install(built: Built) -> None:
    """What the project itself needs is in dependency groups, which no user can install by mistake."""
    extras = set(metadata_of(built.wheel).get_all("Provides-Extra", []))
    of_users = {"cli", "demo", "django", "flower", "metrics", "mysql", "otel", "postgresql", "pytest-celery", "redis"}
    of_users |= {"sql", "valkey"}
    assert extras == of_users


def test_the_package_index_takes_the_files(built: Built) -> None:
    argv = [sys.executable, "-m", "twine", "check", "--strict", str(built.wheel), str(built.sdist)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_changelog_begins_with_this_version() -> None:
    import celery_locks

    (version, date), *earlier = re.findall(r"^## \[(.+?)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version == celery_locks.__version__
    dates = [date for _, date in earlier] + ([] if date == "unreleased" else [date])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(file.read(name))
