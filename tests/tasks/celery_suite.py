"""Runs Celery's own tests twice, as they are and with all tasks locked, and compares test by test.

Celery's source distribution brings its tests. In the second run every app that they make has ``task_cls=LockedTask``
and its leases in ``memory://``. Takes some minutes and the network, so it is no part of the test suite.

This file is also the pytest plugin that both runs load: it then lies alone in a folder, away from the other tests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CELERY = "5.7.0"
PATHS = ("t/unit/tasks", "t/unit/app", "t/unit/worker", "t/unit/test_canvas.py", "t/unit/test_generics.py")
#: What these tests import. Those whose library is missing skip themselves, alike in both runs.
NEEDED = (
    "pytest",
    "pytest-click",
    "pytest-order",
    "pytest-rerunfailures",
    "pytest-subtests",
    "pytest-timeout",
    "cryptography",
    "freezegun",
    "gevent",
    "pydantic",
)

_EXCEPTION_AS_ARGUMENT = "its task takes an exception as argument, which makes no key: LockKeyError, as promised"
#: Tests whose outcome may differ, each with the reason.
KNOWN = {
    "t/unit/tasks/test_trace.py::test_trace::test_trace_SystemExit": _EXCEPTION_AS_ARGUMENT,
    "t/unit/tasks/test_trace.py::test_trace::test_trace_Retry": _EXCEPTION_AS_ARGUMENT,
    "t/unit/tasks/test_trace.py::test_trace::test_trace_exception": _EXCEPTION_AS_ARGUMENT,
    "t/unit/tasks/test_trace.py::test_trace::test_trace_exception_propagate": _EXCEPTION_AS_ARGUMENT,
}

# The plugin -----------------------------------------------------------------------------------------------------------

#: Says to the plugin where to write the outcomes; and that it is to lock, if set.
REPORT, LOCKED = "CELERY_SUITE_REPORT", "CELERY_SUITE_LOCKED"
#: A test counts with the worst outcome of its phases and subtests.
_BADNESS = ("passed", "skipped", "failed")

_outcomes: dict[str, str] = {}
_leases = 0


def pytest_configure() -> None:
    if os.environ.get(LOCKED):
        _lock_all_apps()


def pytest_runtest_logreport(report: Any) -> None:
    before = _outcomes.get(report.nodeid, "passed")
    _outcomes[report.nodeid] = max(before, report.outcome, key=_BADNESS.index)


def pytest_sessionfinish() -> None:
    report = os.environ.get(REPORT)
    if report:
        Path(report).write_text(json.dumps({"outcomes": _outcomes, "leases": _leases}))


def _lock_all_apps() -> None:
    from celery import Celery
    from celery.utils.objects import mro_lookup

    from celery_locks import Locks, signals

    # Held to the end, so that the threads of renewal are there before the first test: Celery's look for new ones.
    Locks().lock("celery-suite").acquire()
    signals.on_lock_acquired.connect(_count, weak=False)
    make = Celery.__init__

    @wraps(make)
    def make_locked(self: Any, *args: Any, **kwargs: Any) -> None:
        # By the argument, as a user would: Celery remembers that the class is not its own.
        if mro_lookup(type(self), "task_cls", stop={Celery, object}) is None:
            kwargs.setdefault("task_cls", "celery_locks:LockedTask")
        make(self, *args, **kwargs)

    Celery.__init__ = make_locked


def _count(**_: Any) -> None:
    global _leases
    _leases += 1


# The script -----------------------------------------------------------------------------------------------------------


def main() -> int:
    """Runs both and prints the comparison. Returns the exit status."""
    options = _arguments()
    with _folder(options.folder) as folder:
        python = _environment(folder, options.celery)
        _unpack(folder, python, options.celery)
        results = _run_both(folder, python, options.paths or PATHS)
        for name, result in results.items():
            _print_numbers(name, result)
        differing = _differing(results)
        again = sorted(differing - KNOWN.keys())
        if again:  # A test may have failed by chance: only what differs twice is a difference.
            print(f"{len(again)} differ; running them again")
            differing = (differing & KNOWN.keys()) | _differing(_run_both(folder, python, again))
    return _judge(differing, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Runs Celery's own tests as they are and with all tasks locked, and compares test by test. "
        "The exit status is 1 when a test differs that is not known to."
    )
    parser.add_argument("paths", nargs="*", help=f"which of Celery's tests (default: {' '.join(PATHS)})")
    parser.add_argument("--celery", default=CELERY, metavar="VERSION", help=f"Celery's version (default: {CELERY})")
    parser.add_argument("--folder", type=Path, help="work here and keep it: quicker the next time, and has the logs")
    return parser.parse_args()


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="celery-suite-") as temporary:
        yield Path(temporary)


def _environment(folder: Path, celery: str) -> Path:
    """A virtual environment with Celery, this package, and what the tests need. Returns its Python."""
    place = folder / f"venv-{celery}"
    python = place / "bin" / "python"
    if not python.exists():
        print(f"Making an environment with Celery {celery} ...", flush=True)
        venv.create(place, with_pip=True)
    _pip(python, "install", "-e", str(ROOT), f"celery[redis]=={celery}", *NEEDED)
    return python


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"pip {arguments[0]} failed:\n{done.stdout}{done.stderr}")


def _unpack(folder: Path, python: Path, celery: str) -> None:
    """Lays Celery's tests, without Celery itself, and this plugin into the folder ``suite``."""
    suite = folder / "suite"
    shutil.rmtree(suite, ignore_errors=True)
    suite.mkdir()
    shutil.copy(__file__, suite)
    sdist = folder / f"celery-{celery}.tar.gz"
    if not sdist.exists():
        _pip(python, "download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), f"celery=={celery}")
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name == "pyproject.toml" or member.name.startswith("t/"):
                archive.extract(member, suite, filter="data")


def _run_both(folder: Path, python: Path, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the plugin reports of each run, by the run's name. They run side by side."""
    runs = {name: _start(folder, python, paths, name) for name in ("plain", "locked")}
    statuses = {name: run.wait() for name, run in runs.items()}  # both, so that none is left behind
    return {name: _report(folder, name, status) for name, status in statuses.items()}


def _start(folder: Path, python: Path, paths: Iterable[str], name: str) -> subprocess.Popen[bytes]:
    report = folder / f"{name}.json"
    report.unlink(missing_ok=True)
    variables = {**os.environ, REPORT: str(report), "PYTHONPATH": str(folder / "suite")}
    if name == "locked":
        variables |= {LOCKED: "1", "CELERY_LOCKS_URL": "memory://"}
    plugins = ("-p", "celery.contrib.pytest", "-p", "no:cacheprovider", "-p", Path(__file__).stem)
    command = [str(python), "-m", "pytest", "--quiet", *plugins, *paths]
    print(f"Running Celery's tests, {name} ...", flush=True)
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder / "suite", env=variables, stdout=log, stderr=subprocess.STDOUT)


def _report(folder: Path, name: str, status: int) -> dict[str, Any]:
    # 1 says that tests failed; anything else, that they did not run.
    if status not in (0, 1):
        sys.exit(f"the {name} run broke off:\n{(folder / f'{name}.log').read_text(errors='replace')[-3000:]}")
    result: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return result


def _print_numbers(name: str, result: dict[str, Any]) -> None:
    numbers = Counter(result["outcomes"].values())
    summary = ", ".join(f"{numbers[outcome]} {outcome}" for outcome in _BADNESS)
    print(f"{name:>7}: {summary}; {result['leases']} leases taken")


def _differing(results: dict[str, dict[str, Any]]) -> set[str]:
    plain, locked = results["plain"]["outcomes"], results["locked"]["outcomes"]
    return {test for test in plain.keys() | locked.keys() if plain.get(test) != locked.get(test)}


def _judge(differing: set[str], results: dict[str, dict[str, Any]]) -> int:
    for test in sorted(differing):
        outcomes = " -> ".join(str(results[name]["outcomes"].get(test, "not run")) for name in ("plain", "locked"))
        print(f"{test}: {outcomes}\n    {KNOWN.get(test, 'UNKNOWN')}")
    unknown = len(differing - KNOWN.keys())
    print(f"{len(differing)} tests differ, {unknown} of them unknown.")
    if not results["locked"]["leases"]:
        print("No lease was taken: the comparison says nothing.")
        return 1
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
