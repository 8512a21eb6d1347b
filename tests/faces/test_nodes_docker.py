"""The plugin for containers, as far as it needs no engine: what an image is built of, and no engine at all."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from celery_locks.testing.docker.image import WorkerImage, default_requirements, installed_versions
from tests.support.celery_worker import ROOT

pytest_plugins = ("pytester",)

PYPROJECT = '[project]\nname = "shop"\ndynamic = ["version"]\ndependencies = ["flask>=3"]\n'
CONFTEST = 'pytest_plugins = ("celery_locks.testing.{}",)\n'


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., WorkerImage]:
    """Return a function that makes a project of these files, and what its workers' image is made of."""

    def made(files: dict[str, str], **options: object) -> WorkerImage:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return WorkerImage(tmp_path, "python:3.13-slim-bookworm", ["celery==5.6.0"], **{"versions": {}, **options})

    return made


def content(image: WorkerImage) -> dict[str, str]:
    with image.context() as stream, tarfile.open(fileobj=stream) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive if entry.isfile()}
        return {name: file.read().decode(errors="replace") for name, file in files.items() if file is not None}


def sent(image: WorkerImage) -> set[str]:
    return {name.removeprefix("project/") for name in content(image) if name.startswith("project/")}


def test_only_what_workers_need_is_sent(project: Callable[..., WorkerImage]) -> None:
    wanted = {"pyproject.toml", "shop/__init__.py", "shop/page.html", "tests/test_shop.py", "shop/build/kept.py"}
    others = {
        ".git/HEAD",
        ".venv/bin/python",
        "environment/pyvenv.cfg",
        "environment/lib/x.py",
        "ui/node_modules/left/pad.js",
        "shop/__pycache__/shop.pyc",
        ".mypy_cache/x",
        ".pytest_cache/x",
        ".coverage.host",
        ".env",
        "build/lib/shop.py",
        "dist/shop.whl",
        "shop.egg-info/PKG-INFO",
        "data/big.csv",
        "shop/secret.key",
    }
    image = project({**dict.fromkeys(wanted | others, ""), ".dockerignore": "# ours\ndata\n\n**/*.key\n"})
    assert sent(image) == wanted | {".dockerignore"}


def test_the_dockerfile_of_an_installable_project(project: Callable[..., WorkerImage]) -> None:
    image = project({"pyproject.toml": PYPROJECT, "src/shop.py": "", "tests/test_shop.py": ""})
    image.import_path = [image.root / "src", "/usr/lib/python3"]
    files = content(image)
    lines = files["Dockerfile"].splitlines()
    assert lines[0] == "FROM python:3.13-slim-bookworm"
    assert "RUN cd /project && pip install --no-cache-dir . -c /requirements/constraints.txt" in lines
    assert [line for line in lines if "project.pth" in line and " /project/src /project > " in line]
    assert files["requirements.txt"].splitlines() == ["celery==5.6.0", "flask>=3"]


def test_the_dockerfile_of_a_project_with_requirements(project: Callable[..., WorkerImage]) -> None:
    listed = "# what we need\nflask>=3\n-r more.txt\n-e .\n./vendor/thing\n"
    files = content(project({"requirements.txt": listed, "pyproject.toml": "[tool.pytest.ini_options]\n"}))
    assert "pip install --no-cache-dir ." not in files["Dockerfile"]
    assert "pip install --no-cache-dir -r requirements.txt -c /requirements/constraints.txt" in files["Dockerfile"]
    assert files["requirements.txt"].splitlines() == ["celery==5.6.0", "flask>=3"]


def test_requirements_with_hashes_stay_by_themselves(project: Callable[..., WorkerImage]) -> None:
    files = content(project({"requirements.txt": "flask==3.0 \\\n    --hash=sha256:00\n"}))
    assert "pip install --no-cache-dir -r requirements.txt\n" in files["Dockerfile"]
    assert files["requirements.txt"].splitlines() == ["celery==5.6.0"]


def test_a_version_that_git_would_give(project: Callable[..., WorkerImage]) -> None:
    image = project({"pyproject.toml": PYPROJECT.replace('"shop"', '"celery"')})  # one that is installed
    assert f"SETUPTOOLS_SCM_PRETEND_VERSION={metadata.version('celery')} pip install" in image.dockerfile()


def test_celery_locks_is_that_of_the_tests(project: Callable[..., WorkerImage]) -> None:
    files = content(project({"shop.py": ""}))
    ours = {name.removeprefix("celery-locks/") for name in files if name.startswith("celery-locks/")}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "celery_locks").rglob("*") if path.is_file()}
    assert ours == {"pytest_celery_locks.py", *(name for name in package if "__pycache__" not in name)}
    assert files["celery-locks/celery_locks/lock.py"] == (ROOT / "celery_locks" / "lock.py").read_text()
    described = [name for name in files if name.startswith("metadata/")]
    assert sorted(name.rpartition("/")[2] for name in described) == ["METADATA", "entry_points.txt"]


def test_our_own_checkout_is_installed_once() -> None:
    image = WorkerImage(ROOT, "python:3.13-slim-bookworm", [], {})
    assert "pip install --no-cache-dir ." not in image.dockerfile()
    assert {"tests/conftest.py", "example_project/shop/__init__.py"} <= sent(image)


def test_workers_have_the_versions_of_the_tests() -> None:
    versions = installed_versions()
    assert versions["celery"] == metadata.version("celery")
    assert "celery-locks" not in versions  # an editable one: no index has it
    required = default_requirements("", "pytest-celery")
    assert f"celery=={metadata.version('celery')}" in required
    assert "celery-locks[redis,postgresql,valkey]" in required
    assert {"gevent", "eventlet"} <= set(required)
    assert "celery==5.5.0" in default_requirements("5.5.0", "pytest-celery")


def test_the_same_files_make_the_same_context(project: Callable[..., WorkerImage]) -> None:
    image = project({"shop.py": "tasks = []", "run": ""})
    (image.root / "run").chmod(0o700)
    before = image.context().read()
    (image.root / "shop.py").write_text("tasks = []")  # a new time of change
    assert image.context().read() == before
    with image.context() as stream, tarfile.open(fileobj=stream) as archive:
        assert oct(archive.getmember("project/run").mode) == oct(0o755)
        assert {entry.uid for entry in archive} == {0}


@pytest.mark.parametrize("address", ["unix://{folder}/none.sock", "tcp://127.0.0.1:9"])
def test_no_engine(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    address = address.format(folder=pytester.path)
    monkeypatch.setenv("DOCKER_HOST", address)
    pytester.makeconftest(CONFTEST.format("docker"))
    pytester.makepyfile("def test_it(celery_setup): ...\ndef test_other(celery_locks_store): ...")
    began = time.monotonic()
    result = pytester.runpytest_subprocess("-p", "no:valkey", "-k", "redis_backend or other", timeout=60)
    assert time.monotonic() - began < 30
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    what = f"no Docker engine answers at {address} (DOCKER_HOST): [[]Errno *]*"
    result.stdout.fnmatch_lines([f"{what}. Start one, or set DOCKER_HOST*, or *-p celery_locks.testing.local"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*requests.exceptions*")


def test_processes_and_containers_together(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.format("local"))
    pytester.makepyfile("def test_it(): ...")
    result = pytester.runpytest_subprocess("-p", "celery_locks.testing.docker", "-p", "no:valkey", timeout=60)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*celery_locks.testing.local and celery_locks.testing.docker are both loaded*"])
    other = ["-p", "no:celery_locks.testing.local", "-p", "celery_locks.testing.docker", "-p", "no:valkey"]
    pytester.runpytest_subprocess(*other, timeout=60).assert_outcomes(passed=1)
