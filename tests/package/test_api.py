"""The public API: it changes when somebody means it to, and all of it is documented."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import griffe
import pytest

from tests.package import api
from tests.support.celery_worker import ROOT

#: Modules whose names are for users: all of these names are on a page of the reference.
PUBLIC = (
    "celery_locks",
    "celery_locks.aio",
    "celery_locks.contrib.django",
    "celery_locks.flower",
    "celery_locks.metrics",
    "celery_locks.signals",
    "celery_locks.stores",
    "celery_locks.tasks",
    "celery_locks.testing",
    "celery_locks.tracing",
)


def test_the_public_api_changes_only_when_it_is_meant_to() -> None:
    written, is_now = api.WRITTEN.read_text().splitlines(), api.text().splitlines()
    changed = [f"- {line}" for line in written if line not in is_now]
    changed += [f"+ {line}" for line in is_now if line not in written]
    assert written == is_now, "\n".join(["if this is meant, run `make api` and tell of it in CHANGELOG.md:", *changed])


def test_the_reference_shows_everything_once() -> None:
    names = [entry.name for entry in api.entries()]
    assert len(names) > 80
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    shown = {api.found(entry.name).path for entry in api.entries()}
    names = import_module(module).__all__
    assert names
    assert [name for name in names if api.found(f"{module}.{name}").path not in shown] == []


def test_every_fixture_is_in_the_reference() -> None:
    fixtures = re.findall(r"^@pytest\.fixture\ndef (\w+)", (ROOT / "pytest_celery_locks.py").read_text(), re.MULTILINE)
    assert len(fixtures) >= 7
    assert {f"pytest_celery_locks.{name}" for name in fixtures} <= {entry.name for entry in api.entries()}
    stores = (ROOT / "celery_locks" / "testing" / "nodes" / "fixtures.py").read_text()
    fixtures = re.findall(r"^@pytest\.fixture.*\ndef (celery_locks_\w+)", stores, re.MULTILINE)
    assert len(fixtures) >= 4
    assert {f"celery_locks.testing.nodes.fixtures.{name}" for name in fixtures} <= {
        entry.name for entry in api.entries()
    }


@pytest.mark.parametrize("entry", api.entries(), ids=lambda entry: entry.name)
def test_everything_in_the_reference_has_a_docstring(entry: api.Entry) -> None:
    shown: dict[str, griffe.Object] = {entry.name: api.found(entry.name), **api.members(entry)}
    assert [name for name, thing in shown.items() if not api.is_documented(thing)] == []


def test_every_setting_is_in_the_table() -> None:
    """Those of Flower's command line are told of with its page."""
    paths = (path for path in Path(ROOT, "celery_locks").rglob("*.py") if path.parent.name != "flower")
    sources = (path.read_text() for path in paths)
    used = {name for source in sources for name in re.findall(r"\"(locks_[a-z_]+[a-z])\"", source)}
    options = {f"locks_{name}" for name in import_module("celery_locks.settings").OPTION_NAMES}
    assert "locks_url" in used
    assert used - options - set(api.settings()) == set()
    assert set(api.settings()) <= used


def test_every_command_is_listed_with_its_purpose() -> None:
    """The reference is made from what the commands say of themselves."""
    assert ":module: celery_locks.cli" in (ROOT / "docs" / "reference" / "command-line.md").read_text()
    page = (ROOT / "docs" / "how-to" / "command-line.md").read_text()
    cli = import_module("celery_locks.cli").locks
    context = click.Context(cli)
    names = cli.list_commands(context)
    assert len(names) >= 9
    for name in names:
        command = cli.get_command(context, name)
        assert re.search(rf"^\| `{name}\b", page, re.MULTILINE), name
        assert command.help, name
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert [option.name for option in options if not option.help] == [], name
