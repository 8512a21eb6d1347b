"""Run by a Python that has the wheel with one extra and nothing else: what the extra is for works.

``python check_extras.py EXTRA``; a server that the extra needs is named by ``SERVER_URL``. It needs nothing but what is
installed, and so no pytest.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

T = TypeVar("T")

PROJECT = """
from celery import Celery
from celery_locks import LockedTask
app = Celery("project", broker="memory://", backend="cache+memory://")
app.conf.locks_url = "sqlite:///locks.db"
@app.task(bind=True, base=LockedTask, lock_key="user:<user>")
def sync(self, user):
    return self.lease.key
"""

SERVED = """
import os
from celery import Celery
from celery_locks import LockedTask
app = Celery("served", broker=os.environ["SERVER_URL"], backend=os.environ["SERVER_URL"])
@app.task(bind=True, base=LockedTask, lock_key="user:<user>")
def sync(self, user):
    return self.lease.key
"""


def core() -> None:
    """Celery alone: a task, a lock in a file, the command line; and nothing is installed or loaded beside it."""
    _installed_nothing_but("celery-locks")
    before = _packages()
    from celery_locks import Locks

    with Locks("sqlite:///locks.db").lock("k", ttl=30) as lease:
        assert lease.held
    assert _packages() - before <= {"celery_locks", *sys.stdlib_module_names}, _packages() - before
    from project import sync

    assert sync.apply(("7",)).get() == "user:7"
    with Locks("sqlite:///locks.db").lock("user:7", ttl=30):
        assert "user:7" in _celery("locks", "list")
    for extra, url in {"redis": "redis://h", "postgresql": "postgresql://h/db", "mysql": "mysql://h/db"}.items():
        _says_what_is_missing(lambda url=url: Locks(url), extra)  # type: ignore[misc]


def redis() -> None:
    """A lock in Redis, by redis-py; and a worker whose broker, results and locks are there."""
    _lock_in_server()
    assert "redis" in sys.modules
    Path("served.py").write_text(SERVED)
    argv = [sys.executable, "-m", "celery", "-A", "served", "worker", "--pool=solo", "--loglevel=INFO"]
    with open("worker.log", "w+") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            _eventually(lambda: " ready." in Path("worker.log").read_text(), process)
            from served import sync

            assert sync.delay("7").get(timeout=60) == "user:7"
        finally:
            process.terminate()
            process.wait(60)


def valkey() -> None:
    """A lock in Valkey, by Valkey's own client."""
    _lock_in_server()
    assert "valkey" in sys.modules
    assert "redis" not in sys.modules


def sql() -> None:
    """The tables of a database, for a migration; a driver is asked for when one is used."""
    import sqlalchemy

    from celery_locks import Locks
    from celery_locks.stores import schema_sql

    assert sqlalchemy
    for extra, url in {"postgresql": "postgresql://h/db", "mysql": "mysql://h/db"}.items():
        assert "CREATE TABLE" in schema_sql(url)
        _says_what_is_missing(lambda url=url: Locks(url).lock("k").try_acquire(), extra)  # type: ignore[misc]


def postgresql() -> None:
    """A lock in PostgreSQL."""
    _lock_in_server()


def mysql() -> None:
    """A lock in MySQL or MariaDB."""
    _lock_in_server()


def cli() -> None:
    """Tables in colours."""
    from rich.console import Console

    from celery_locks import Locks
    from celery_locks.cli.output import rich_table, table_of

    locks = Locks("sqlite:///locks.db")
    with locks.lock("user:7", ttl=30):
        table = rich_table(*table_of([locks.info("user:7")]))
        console = Console(file=io.StringIO(), force_terminal=True, width=120)
        console.print(table)
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert "user:7" in printed
        assert "\x1b[" in printed
        assert "user:7" in _celery("locks", "list")


def metrics() -> None:
    """Prometheus' metrics."""
    from prometheus_client import CollectorRegistry, generate_latest

    from celery_locks import Locks, metrics

    stop = metrics.collect(registry := CollectorRegistry())
    with Locks("sqlite:///locks.db").lock("k", ttl=30):
        pass
    told = generate_latest(registry).decode()
    stop()
    assert re.search(r"^celery_locks_acquired_total\{.*\} 1.0$", told, re.MULTILINE), told


def otel() -> None:
    """Spans, by whatever makes them; here nothing does, and locks go on."""
    from opentelemetry import trace

    from celery_locks import Locks, tracing

    named: list[str] = []

    class Tracer(trace.NoOpTracer):
        def start_span(self, name: str, *args: Any, **kwargs: Any) -> trace.Span:
            named.append(name)
            return super().start_span(name, *args, **kwargs)

    class Provider(trace.NoOpTracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            return Tracer()

    stop = tracing.instrument(Provider())
    with Locks("sqlite:///locks.db").lock("k", ttl=30):
        pass
    stop()
    assert "lock acquire" in named, named


def flower() -> None:
    """The page of locks, by the command that users type."""
    from celery_locks import Locks

    port = os.environ["FREE_PORT"]
    argv = [sys.executable, "-m", "celery", "-A", "project", "flower", "--address=127.0.0.1", f"--port={port}"]
    with Locks("sqlite:///locks.db").lock("user:7", ttl=30), open("flower.log", "w+") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "1"})
        try:
            page = _eventually(lambda: _get(f"http://127.0.0.1:{port}/locks"), process)
            assert "Locks" in page
            assert "user:7" in _eventually(lambda: _get(f"http://127.0.0.1:{port}/api/locks"), process)
        finally:
            process.terminate()
            process.wait(60)


def django() -> None:
    """The app in a project: its checks, and a page in the admin."""
    import django
    from django.conf import settings

    name = "django.contrib."
    settings.configure(
        SECRET_KEY="x",
        ROOT_URLCONF="urls",
        INSTALLED_APPS=[
            *(name + app for app in ("admin", "auth", "contenttypes", "messages", "sessions")),
            "celery_locks.contrib.django",
        ],
        TEMPLATES=[],
    )
    Path("urls.py").write_text("urlpatterns = []\n")
    django.setup()
    from django.apps import apps
    from django.contrib import admin
    from django.core.checks import run_checks

    from celery_locks.contrib.django import LockedTask

    assert LockedTask.delay_on_commit
    assert any(model in admin.site._registry for model in apps.get_app_config("celery_locks").get_models())
    assert isinstance(run_checks(), list)


def pytest_celery() -> None:
    """Tests on a real worker and real servers, without Docker; nothing runs when they have ended."""
    Path("pytest.ini").write_text("[pytest]\n")  # nothing of the working copy's
    Path("conftest.py").write_text('pytest_plugins = ("celery_locks.testing.local",)\n')
    Path("tasks.py").write_text(TIMED)
    Path("test_sync.py").write_text(OVERLAP)
    argv = [sys.executable, "-m", "pytest", "-q", "-k", "not rabbitmq"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "MARK": "mark"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    import psutil

    left = [each for each in psutil.process_iter() if _marked(each)]
    assert not left, left


TIMED = """
import time
from celery import shared_task
from celery_locks import LockedTask

@shared_task(base=LockedTask, lock_key="user:<user_id>")
def sync(user_id):
    begin = time.time()
    time.sleep(0.5)
    return begin, time.time()
"""

OVERLAP = """
import pytest, tasks

@pytest.fixture
def default_worker_tasks(default_worker_tasks):
    default_worker_tasks.add(tasks)
    return default_worker_tasks

def test_two_calls_of_one_key_never_overlap(celery_setup):
    calls = [tasks.sync.delay(7), tasks.sync.delay(7)]
    first, second = sorted(call.get(timeout=60) for call in calls)
    assert first[1] <= second[0]
"""


def _marked(process: Any) -> bool:
    """Whether a process was started by the tests, which have a variable of their own."""
    import psutil

    with suppress(psutil.Error):
        return process.pid != os.getpid() and process.environ().get("MARK") == "mark"
    return False


# --- What they share ---


def _lock_in_server() -> None:
    from celery_locks import Locks

    with closing(Locks(os.environ["SERVER_URL"])) as locks, locks.lock("k", ttl=30) as lease:
        assert locks.lock("k").try_acquire() is None
        assert locks.info("k").holders[0].fencing_token == lease.fencing_token


def _says_what_is_missing(use: Callable[[], object], extra: str) -> None:
    from celery_locks import LockConfigError

    said = "nothing"
    try:
        use()
    except LockConfigError as error:
        said = str(error)
    assert f"celery-locks[{extra}]" in said, f"without celery-locks[{extra}] it said {said}"


def _packages() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def _installed_nothing_but(name: str) -> None:
    """Only this distribution and what it needs without its extras, and what makes environments."""
    wanted, todo = set(), [name]
    while todo:
        wanted.add(one := _normal(todo.pop()))
        for line in metadata.requires(one) or ():
            needed = re.match(r"[\w.-]+", line)
            if needed and "extra ==" not in line and _normal(needed[0]) not in wanted:
                todo += [needed[0]] if _is_installed(needed[0]) else []
    found = {_normal(found.name) for found in metadata.distributions()}
    assert found - wanted <= {"pip", "setuptools", "wheel"}, found - wanted


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False  # of another Python or system
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _celery(*arguments: str) -> str:
    argv = [sys.executable, "-m", "celery", "-A", "project", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def _eventually(look: Callable[[], T], process: subprocess.Popen[bytes]) -> T:
    """The first true answer, as long as the process runs."""
    end = monotonic() + 90
    while process.poll() is None and monotonic() < end:
        with suppress(OSError):
            if seen := look():
                return seen
        sleep(0.1)
    raise AssertionError("\n".join(log.read_text() for log in Path().glob("*.log")))


if __name__ == "__main__":
    check = {name: value for name, value in vars().items() if callable(value)}[sys.argv[1].replace("-", "_")]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path[0] = folder
        Path("project.py").write_text(PROJECT)
        check()
    print(f"celery-locks[{sys.argv[1]}] works")
