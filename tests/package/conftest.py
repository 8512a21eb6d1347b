"""What users install, built once."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.package import environments, transcript
from tests.support.celery_worker import ROOT


@dataclass(frozen=True)
class Built:
    """The two files of a release."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist of the working copy."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "wheel", "sdist")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def build(source: Path, folder: Path, *targets: str) -> None:
    """Builds with hatchling, as pip does, and without the network: hatchling is here."""
    argv = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    for target in targets:
        argv += ["-t", target]
    done = subprocess.run(argv, cwd=source, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def readers_venv(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and with all that the how-to pages have their readers install.

    They share it, since an environment for each page would take as long as all their tests. So what a page imports is
    held against what that page itself names. The tutorial and the README have environments that pip makes.
    """
    texts = [page.read_text() for page in (ROOT / "docs" / "how-to").glob("*.md")]
    wanted = sorted({one for text in texts for one in transcript.installed(text)})
    extras = [extra for one in wanted for extra in re.findall(r"^celery-locks\[(.+)\]$", one)]
    others = [one for one in wanted if not one.startswith("celery-locks")]
    venv = tmp_path_factory.mktemp("readers") / "venv"
    return environments.make_linked(venv, built.wheel, ",".join(extras).split(","), *others)
