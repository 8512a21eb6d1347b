"""The places in Flower and Tornado that we replace or rely on, in the installed versions."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest

from celery_locks.flower._flower_patches import PATCHES, RELIED_ON, Patch
from tests.support.celery_worker import ROOT

NAMED_STORE = """
import time
from celery import Celery
from flower import command  # defines Flower's options
from prometheus_client import REGISTRY
from celery_locks.flower import _flower_patches as patches
app = Celery("proj", broker="memory://", set_as_current=False)
app.conf.locks_stores = {"audit": "memory://"}
patches.install()
patches.serve_metrics(app)
deadline = time.monotonic() + 30
while REGISTRY.get_sample_value("celery_locks_store_up", {"store": "audit"}) != 1:
    assert time.monotonic() < deadline
    time.sleep(0.01)
assert REGISTRY.get_sample_value("celery_locks_store_up", {"store": "default"}) is None
"""


def resolved(path: str) -> Any:
    """Return the object of a dotted path."""
    module, names = path, list[str]()
    while True:
        try:
            found = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            names.insert(0, name)
    for name in names:
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.target)
def test_each_patched_place_is_as_expected(patch: Patch) -> None:
    target = resolved(patch.target)
    if patch.parameters:
        assert tuple(inspect.signature(target).parameters) == patch.parameters
    assert patch.why
    assert patch.versions


@pytest.mark.parametrize("path", RELIED_ON)
def test_each_name_that_we_rely_on_is_as_expected(path: str) -> None:
    parameters, why = RELIED_ON[path]
    assert tuple(inspect.signature(resolved(path)).parameters) == parameters
    assert why


def test_the_routes_are_a_list_and_the_settings_a_dictionary() -> None:
    assert isinstance(resolved("flower.urls.handlers"), list)
    assert isinstance(resolved("flower.urls.settings"), dict)


def test_metrics_of_named_stores_need_no_default_store() -> None:
    subprocess.run([sys.executable, "-c", NAMED_STORE], cwd=ROOT, check=True, timeout=60)
