"""The tutorial, followed to its end by somebody who has nothing but Python, an empty folder and the built wheel.

The pages go in the order in which the site lists them, ``index.md`` first and the others by name; all in one folder,
one after the other. How they are written for that is described in ``transcript.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.package import environments
from tests.package.conftest import Built
from tests.package.transcript import Reader, with_free_ports
from tests.support.celery_worker import ROOT

TUTORIAL = ROOT / "docs" / "tutorial"


def pages() -> list[Path]:
    """In the order in which the site lists them."""
    return sorted(TUTORIAL.glob("*.md"), key=lambda page: (page.name != "index.md", page.name))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_can_be_followed_to_its_end(built: Built, tmp_path: Path) -> None:
    texts = with_free_ports([page.read_text() for page in pages()])
    assert texts
    with Reader(tmp_path, environments.variables(None, environments.for_pip(built.wheel))) as reader:
        for page, text in zip(pages(), texts, strict=True):
            reader.follow(page.name, text)
        reader.finish()
    environments.assert_has(tmp_path / ".venv", built.wheel)
