"""The README's quick start, followed by a reader who has an empty virtual environment, the built wheel and a server.

How the README is written for that is described in ``transcript.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.package import environments
from tests.package.conftest import Built
from tests.package.transcript import Command, Reader, servers, steps, with_free_ports
from tests.support.celery_worker import ROOT
from tests.support.servers import RedisServer

README = (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_start_runs_as_printed(built: Built, start_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    assert servers(README) == {"6379": "Redis"}
    (text,) = with_free_ports([README], {"6379": start_redis().port})
    venv = environments.make(tmp_path / "venv")
    folder = tmp_path / "reader"
    folder.mkdir()
    with Reader(folder, environments.variables(venv, environments.for_pip(built.wheel))) as reader:
        reader.follow("README.md", text)
        reader.finish()
    environments.assert_has(venv, built.wheel)


def test_the_quick_start_shows_what_it_prints() -> None:
    commands = [step for _, step in steps(README) if isinstance(step, Command)]
    assert [command.text.split()[0] for command in commands] == ["pip", "celery", "python"]
    assert all(command.shown for command in commands[1:])
