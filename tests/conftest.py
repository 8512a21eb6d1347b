"""Fixtures for all tests: real servers, and a word at the end on which ones there were."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import pytest

# Before anything imports it: asserts of the compliance suite that show their values.
pytest.register_assert_rewrite("celery_locks.testing")

from celery import _state

from celery_locks.testing.local.executables import NodeFailed
from tests.support import rabbitmq, report
from tests.support.clusters import Cluster, Sentinels
from tests.support.proxy import Proxy
from tests.support.servers import Binary, RedisServer, all_binaries, default_binary
from tests.support.sql_servers import DatabaseServer, MariaDBServer, PostgresServer
from tests.support.tls import Certificates, binary_with_tls
from tests.support.tls import certificates as make_certificates

#: Fixtures that start Redis or Valkey; so do shops, whose fixtures' names end with `_shop`.
_REDIS_FIXTURES = {"redis_server", "each_redis_server", "second_flavour", "start_redis", "redis_cluster"}
_REDIS_FIXTURES |= {"sentinels", "cluster_by_tls", "sentinels_by_tls", "databases", "fragile_shops"}
#: Fixtures that start other programs.
_OTHER_FIXTURES = {"postgresql_server", "mariadb_server", "rabbit_server", "built", "celery_setup"}
_databases = itertools.cycle(range(1, 512))

#: Our suite runs on what we offer: pytest-celery's nodes as processes of this machine.
pytest_plugins = ("celery_locks.testing.local",)
#: A project of its own, with tests that a test runs.
collect_ignore = ["faces/django_site"]


@pytest.fixture(autouse=True)
def _loggers_that_speak() -> None:
    """A test that sets up logging in this process, as Celery and Django do, must not silence what others listen for."""
    logging.disable(logging.NOTSET)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == "celery_locks" and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)


@pytest.fixture
def no_shared_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app of this test has its own tasks and Celery's: otherwise it gets a copy of each task of this process."""
    celerys = {add for add in _state._on_app_finalizers if add.__module__ == "celery.app.builtins"}
    assert celerys
    monkeypatch.setattr(_state, "_on_app_finalizers", celerys)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server that all tests of this process share: don't pause, stop or reconfigure it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database of the shared server."""
    return _empty_database(redis_server)


@pytest.fixture
def other_redis_url(redis_server: RedisServer) -> str:
    """One more empty database of the shared server."""
    return _empty_database(redis_server)


# Without any binary the one parameter is None, and the fixture fails: an empty list would skip its tests in silence.
@pytest.fixture(scope="session", params=all_binaries() or [None], ids=lambda binary: getattr(binary, "flavour", "none"))
def each_redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Shared servers, one of each flavour that this machine has: the test runs on all of them."""
    with RedisServer(request.param or default_binary()) as server:
        yield server


@pytest.fixture
def each_redis_url(each_redis_server: RedisServer) -> str:
    """An empty database on a server of each flavour."""
    return _empty_database(each_redis_server)


@pytest.fixture(scope="session")
def second_flavour() -> Iterator[RedisServer]:
    """A shared server of the flavour that neither `redis_server` nor the cluster runs on, where there are two."""
    with RedisServer((all_binaries() or (default_binary(),))[-1]) as server:
        yield server


@pytest.fixture
def second_flavour_url(second_flavour: RedisServer) -> str:
    """An empty database on it."""
    return _empty_database(second_flavour)


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers for this test alone, to pause, kill and configure: takes what `RedisServer` takes."""
    with ExitStack() as servers:

        def start(binary: Binary | None = None, **options: Any) -> RedisServer:
            return servers.enter_context(RedisServer(binary, **options))

        yield start


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """A network before the shared server, that fails as it is told."""
    with Proxy(redis_server.port) as made:
        yield made


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """A server that all tests of this process share: don't pause or stop it."""
    with _started(PostgresServer) as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: PostgresServer) -> str:
    """A database on the shared server. Other tests use it too, with other names."""
    return postgresql_server.url()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """A server that all tests of this process share: don't pause or stop it."""
    with _started(MariaDBServer) as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb_server: MariaDBServer) -> str:
    """A database on the shared server. Other tests use it too, with other names."""
    return mariadb_server.url()


S = TypeVar("S", bound=DatabaseServer)


@contextmanager
def _started(kind: type[S]) -> Iterator[S]:
    if why := kind.missing():
        pytest.skip(why)  # the closing lines say what the tests had to do without
    with kind() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Cluster]:
    """Three masters that all tests of this process share."""
    with ExitStack() as stack:
        yield _enter(stack, Cluster(default_binary()), "a cluster")


@pytest.fixture(scope="session")
def sentinels() -> Iterator[Sentinels]:
    """A master and a replica that three Sentinels watch over; which of them is the master may change."""
    with ExitStack() as stack:
        # Of the flavours that there are, the one that the cluster doesn't run on.
        binary = (all_binaries() or (default_binary(),))[-1]
        yield _enter(stack, Sentinels(binary), "Sentinels")


def _enter(stack: ExitStack, servers: Any, what: str) -> Any:
    """Starts servers, or says aloud that they are not to be had."""
    name = f"{servers.binary} as {what}"
    try:
        started = stack.enter_context(servers)
    except NodeFailed as error:
        report.could_not_have(name, str(error))
        pytest.skip(f"there is no {name}: see the closing lines")
    report.ran_on(name)
    return started


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What servers of tests and their clients show each other."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def cluster_by_tls(certificates: Certificates) -> Iterator[Cluster]:
    """Three masters that speak nothing but TLS, also with each other."""
    with ExitStack() as stack:
        yield _enter(stack, Cluster(_with_tls(certificates), tls=certificates), "a cluster by TLS")


@pytest.fixture(scope="session")
def sentinels_by_tls(certificates: Certificates) -> Iterator[Sentinels]:
    """A master, a replica and three Sentinels that speak nothing but TLS, also with each other."""
    with ExitStack() as stack:
        yield _enter(stack, Sentinels(_with_tls(certificates), tls=certificates), "Sentinels by TLS")


def _with_tls(certificates: Certificates) -> Binary:
    try:
        return binary_with_tls(certificates)
    except NodeFailed as error:
        pytest.skip(str(error))  # the closing lines say it, too


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[rabbitmq.RabbitServer]:
    """A RabbitMQ that all tests of this process share: name your queues apart."""
    if rabbitmq.script() is None:
        pytest.skip("there is no RabbitMQ on this machine: see the closing lines")
    with rabbitmq.RabbitServer() as server:
        yield server


def _empty_database(server: RedisServer) -> str:
    db = next(_databases)
    with server.client(db) as client:
        client.flushdb()
    return server.url(db)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collecting makes a million objects, all of which stay: looking for garbage among them takes a quarter of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        # Shops that tests share start a server of their own.
        if names & _REDIS_FIXTURES or any(name.endswith("_shop") for name in names):
            item.add_marker(pytest.mark.redis)
        if names & _OTHER_FIXTURES or item.nodeid.startswith(_PROCESSES) or item.get_closest_marker("redis"):
            item.add_marker(pytest.mark.processes)
        on_other_pool = item.nodeid.startswith("tests/tasks/") and _OTHER_POOLS & set(_parameters(item))
        is_long = item.get_closest_marker("slow") and (item.nodeid.startswith(_EXHAUSTIVE) or on_other_pool)
        if is_long or item.nodeid.startswith(_WHOLLY_EXHAUSTIVE):
            item.add_marker(pytest.mark.exhaustive)
    if hasattr(config, "workerinput"):
        items[:] = _longest_first(items)


def _parameters(item: pytest.Item) -> list[str]:
    """Return the parts of a test's parameters."""
    return item.nodeid.partition("[")[2].rstrip("]").split("-")


#: Slow tests of tasks run on prefork in `make test`, and on these pools too in `make test-all`. For each pool there are
#: tests that are not slow.
_OTHER_POOLS = {"threads", "solo", "gevent", "eventlet"}
#: All of these tests run in `make test-all` only.
_WHOLLY_EXHAUSTIVE = (
    "tests/acceptance/test_contention.py",
    "tests/acceptance/test_ends.py",
    "tests/acceptance/test_losses.py",
    "tests/acceptance/test_scopes.py",
    "tests/faces/test_flower_parts.py::test_celery_works_without_flower",
    "tests/faces/test_nodes_docker.py",
    "tests/tasks/test_abort_race.py",
    "tests/tasks/test_exclusion.py",
)
#: Their tests start processes without a fixture that all tests share.
_PROCESSES = (
    "tests/core/test_aio_timeouts.py",
    "tests/core/test_imports.py",
    "tests/core/test_interrupts.py",
    "tests/core/test_notices.py",
    "tests/faces/test_local_nodes.py",
    "tests/faces/test_telemetry.py",
    "tests/package/test_transcript.py",
    "tests/package/test_types.py",
    "tests/stores/test_sqlite.py",
    "tests/stores/test_sqlite_place.py",
    "tests/tasks/test_abort.py",
    "tests/tasks/test_deliveries.py",
    "tests/tasks/test_interrupts.py",
    "tests/tasks/test_dead_workers.py",
    "tests/tasks/test_definitions.py",
    "tests/test_support.py",
)
#: Their slow tests run in `make test-all` only: they repeat for more cases what other tests show, or they follow what
#: users see (pages, demo, browsers) from end to end.
_EXHAUSTIVE = (
    "tests/acceptance/test_",
    "tests/chaos/",
    "tests/core/test_interrupts.py",
    "tests/core/test_renewal_strain.py",
    "tests/faces/test_completion.py",
    "tests/faces/test_demo.py",
    "tests/faces/test_django_browser.py",
    "tests/faces/test_doctor.py",
    "tests/faces/test_doctor_rabbit.py",
    "tests/faces/test_flower_browser.py",
    "tests/faces/test_local_nodes.py",
    "tests/faces/test_nodes_docker.py",
    "tests/faces/test_pytest_plugin.py",
    "tests/faces/test_shop.py",
    "tests/package/",
    "tests/stores/test_costs.py",
    "tests/stores/test_model.py",
    "tests/stores/test_permits.py",
    "tests/stores/test_tried_writes.py",
    "tests/tasks/test_interrupts.py",
    "tests/test_benchmarks.py",
)


# --- Who runs what: one process runs the files that share what takes seconds to start, so that it starts once. ---

_TOGETHER = (
    ("tests/tasks/test_park",),  # the prefork shop, and one that parks early
    # Shops of every pool.
    ("tests/tasks/test_losses.py", "tests/tasks/test_abort.py", "tests/tasks/test_renewal_under_load.py"),
    ("tests/core/test_interrupts.py",),
    ("tests/tasks/test_canvas.py", "tests/tasks/test_policies.py", "tests/tasks/test_limits.py"),  # the prefork shop
    ("tests/tasks/test_scopes.py",),
    ("tests/tasks/test_death.py",),
    ("tests/tasks/test_faults.py",),
    ("tests/tasks/test_run_ends.py::TestWaits",),
    ("tests/tasks/test_run_ends.py::TestPolicies",),
    ("tests/tasks/test_definitions.py",),
    ("tests/tasks/test_rabbit", "tests/faces/test_shop.py", "tests/faces/test_doctor_rabbit.py"),
    ("tests/stores/test_redis_cluster.py",),
    ("tests/stores/test_redis_sentinel.py",),
    ("tests/stores/test_redis_tls.py",),
    ("tests/stores/test_redis_clock.py",),
    ("tests/stores/test_redis_replicas.py",),
    ("tests/stores/test_redlock_takeover.py",),
    ("tests/faces/test_completion.py",),  # shells
    ("tests/faces/test_telemetry.py",),
    ("tests/faces/test_dashboard.py",),
    ("tests/faces/test_flower.py",),
    ("tests/faces/test_flower_browser.py",),
    ("tests/faces/test_flower_stores.py",),
    ("tests/faces/test_django_browser.py",),
    ("tests/package/test_api.py", "tests/package/test_public_attributes.py"),  # the public API, read from the source
    ("tests/package/test_build.py",),
    ("tests/package/test_pages.py", "tests/package/test_outside_project.py"),  # the readers' environment
    ("tests/test_benchmarks.py",),
)
#: Tests elsewhere that run on each kind of store go where the cluster is.
_CLUSTER = "tests/stores/test_redis_cluster.py"
#: Servers that take seconds to start: tests with such a parameter run where it runs.
_DATABASES = ("mariadb", "postgresql")


def _unit(nodeid: str) -> str:
    """Return what a test runs in one process with: the first of its files, or the test alone."""
    if nodeid.endswith("[cluster]"):
        return _CLUSTER
    path, _, parameters = nodeid.partition("[")
    together = next((files[0] for files in _TOGETHER if path.startswith(files)), None)
    return together or next((name for name in _DATABASES if name in parameters), nodeid)


def _longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Sort the units, and leave each in order: a test of minutes that began last would run alone."""
    units: dict[str, list[pytest.Item]] = {}
    for item in items:
        units.setdefault(_unit(item.nodeid), []).append(item)

    def place(unit: list[pytest.Item]) -> tuple[bool, ...]:
        return tuple(unit[0].get_closest_marker(marker) is None for marker in ("exhaustive", "slow"))

    return [item for unit in sorted(units.values(), key=place) for item in unit]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByUnits(LoadScopeScheduling):
        """Units of several tests begin first, those with the most tests before the others."""

        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid)

    return ByUnits(config, log)


# --- The closing lines. Under xdist the notes come from the processes that ran the tests. ---


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["servers"] = report.as_data()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    report.add_data(**getattr(node, "workeroutput", {}).get("servers", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in report.lines():
        terminalreporter.write_line(line, yellow="WITHOUT" in line)
