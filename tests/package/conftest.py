"""What users install, built once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

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
