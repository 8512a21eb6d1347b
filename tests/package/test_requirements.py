"""The lock of what `make` installs: complete, pinned, hashed, and in step with pyproject.toml on each Python."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest
from packaging.markers import Environment, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.celery_worker import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCKED = sorted((ROOT / "requirements").glob("*.txt"))
PYTHONS = ("3.10.0", "3.11.0", "3.12.0", "3.13.0", "3.14.0")
PLATFORMS = ("linux", "darwin")
#: Groups that `make` installs into one environment.
TOGETHER = [("dev", "docs"), ("dev", "bench"), ("dev", "matrix")]


def environments() -> Iterator[tuple[str, Environment]]:
    """Each supported Python on each supported system, with its name."""
    for python, platform in product(PYTHONS, PLATFORMS):
        environment = default_environment()
        environment["python_full_version"], environment["python_version"] = python, python.rpartition(".")[0]
        environment["sys_platform"], environment["platform_system"] = platform, platform.capitalize()
        yield f"{python} on {platform}", environment


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def asked_for(group: str) -> Iterator[Requirement]:
    """What a group of pyproject.toml names, with the extras of the project itself and what the project needs."""
    yield from map(Requirement, project()["project"]["dependencies"])
    for entry in project()["dependency-groups"][group]:
        if isinstance(entry, dict):
            yield from asked_for(entry["include-group"])
        else:
            yield from without_extras(Requirement(entry))


def without_extras(requirement: Requirement) -> Iterator[Requirement]:
    if requirement.name != project()["project"]["name"]:
        yield requirement
        return
    for extra in requirement.extras:
        for entry in project()["project"]["optional-dependencies"][extra]:
            yield from without_extras(Requirement(entry))


@cache
def locked(group: str) -> list[tuple[Requirement, int]]:
    """What a file of the lock names, each with the number of its hashes."""
    text = (ROOT / "requirements" / f"{group}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(Requirement(line.partition("--hash=")[0]), line.count("--hash=sha256:")) for line in lines]


def versions(group: str, environment: Environment) -> dict[str, Version]:
    """The locked versions by the packages' names, for one environment."""
    found: dict[str, Version] = {}
    for requirement, _ in locked(group):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"requirements/{group}.txt names {name} twice"
            (pin,) = requirement.specifier
            found[name] = Version(pin.version)
    return found


def test_make_lock_makes_a_file_for_each_group_that_is_installed() -> None:
    makefile = (ROOT / "Makefile").read_text()
    groups = re.search(r"^GROUPS := (.+)$", makefile, re.MULTILINE)
    assert groups is not None
    assert sorted(groups[1].split()) == [path.stem for path in LOCKED]
    assert set(re.findall(r"requirements/([a-z]+)\.txt", makefile)) == {path.stem for path in LOCKED}


@pytest.mark.parametrize("group", [path.stem for path in LOCKED])
def test_each_package_is_pinned_with_hashes(group: str) -> None:
    for requirement, hashes in locked(group):
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert hashes, f"{requirement} has no hash"


@pytest.mark.parametrize("group", [path.stem for path in LOCKED])
def test_the_lock_has_what_pyproject_asks_for(group: str) -> None:
    for name, environment in environments():
        have = versions(group, environment)
        for wanted in asked_for(group):
            if wanted.marker is None or wanted.marker.evaluate(environment):
                version = have.get(canonicalize_name(wanted.name))
                assert version is not None, f"{wanted} is not locked for Python {name}: make lock UPGRADE="
                assert wanted.specifier.contains(version, prereleases=True), (
                    f"{wanted} is locked as {version} for Python {name}: make lock UPGRADE="
                )


@pytest.mark.parametrize(("one", "other"), TOGETHER, ids="-".join)
def test_groups_that_share_an_environment_agree(one: str, other: str) -> None:
    for name, environment in environments():
        first, second = versions(one, environment), versions(other, environment)
        differ = {package for package in first.keys() & second.keys() if first[package] != second[package]}
        assert not differ, f"Python {name}: {differ}"
