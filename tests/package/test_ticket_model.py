"""The formal model of a ticket's life: Spin proves its properties, and finds each known fault that is put back."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support import report
from tests.support.celery_worker import ROOT

MODEL = ROOT / "docs" / "model"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ticket_model_check", MODEL / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check = _load()


@pytest.fixture(autouse=True)
def _spin(request: pytest.FixtureRequest) -> None:
    if "without_spin" not in request.node.name and check.missing_programs():
        report.could_not_have("Spin and gcc", "the model of a ticket's life was not checked; Debian's spin and gcc")
        pytest.skip("Spin or gcc is missing: see the closing lines")


def _named(search: Any) -> str:
    bounds, checked = search
    return f"{bounds.name}, {check.PROPERTIES[checked] if checked else 'all assertions'}"


@pytest.mark.slow
@pytest.mark.parametrize("search", check.QUICK, ids=_named)
def test_the_protocol_holds_in_every_state(search: Any) -> None:
    bounds, checked = search
    found = check.search(bounds, checked)
    assert found.holds
    assert found.states > 100_000  # a model that can't move has every property


@pytest.mark.slow
@pytest.mark.parametrize("seed", check.SEEDS, ids=lambda seed: f"{seed.name}-{seed.breaks}")
def test_a_known_fault_is_found(seed: Any) -> None:
    assert not check.search(seed.bounds, seed.breaks, f"-DSEED_{seed.name}").holds


def test_each_fault_of_the_model_is_searched_without_spin() -> None:
    in_the_model = set(re.findall(r"\bSEED_([A-Z_]+)", (MODEL / "ticket.pml").read_text()))
    assert in_the_model == {seed.name for seed in check.SEEDS}
    assert {seed.breaks for seed in check.SEEDS} == set(check.PROPERTIES)  # none holds because it can't fail


def test_an_error_names_what_to_install_without_spin(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(MODEL / "check.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "install Debian's spin and gcc" in done.stderr
