"""The files that the public CI and Read the Docs read: in step with the project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.celery_worker import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in loaded(workflow)["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_runs_exists(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [command for step in steps(workflow) if (command := step.get("run"))]
    assert set(re.findall(r"\bmake ([a-z-]+)", "\n".join(commands))) <= targets
    for program in re.findall(r"(?:^|bash )(\.\S+)", "\n".join(commands), re.MULTILINE):
        assert program.startswith(".venv/") or (ROOT / program).is_file()


def test_each_supported_python_is_tested() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    supported = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject))
    jobs = loaded(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    whole = {*jobs["tests"]["strategy"]["matrix"]["python"]}
    whole |= {
        step["with"]["python-version"] for step in jobs["checks"]["steps"] if "setup-python" in step.get("uses", "")
    }
    assert whole == supported


def test_only_the_release_may_publish() -> None:
    for workflow in WORKFLOWS:
        assert loaded(workflow)["permissions"] == {"contents": "read"}
        writing = {
            name for name, job in loaded(workflow)["jobs"].items() if "write" in job.get("permissions", {}).values()
        }
        assert writing == ({"publish"} if workflow.stem == "release" else set())


def test_read_the_docs_installs_the_lock() -> None:
    config = loaded(ROOT / ".readthedocs.yaml")
    files = [entry["requirements"] for entry in config["python"]["install"] if "requirements" in entry]
    assert files == ["requirements/docs.txt"]
    assert (ROOT / files[0]).is_file()
    assert (ROOT / config["mkdocs"]["configuration"]).is_file()
