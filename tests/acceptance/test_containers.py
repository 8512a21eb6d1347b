"""Nodes as containers, on a small project outside: what fails says why, and leaves nothing. Needs an engine."""

from __future__ import annotations

import re
from collections.abc import Iterator

import docker
import pytest

pytest_plugins = ("pytester",)

CONFTEST = """
import pytest

pytest_plugins = ("celery_locks.testing.docker",)

@pytest.fixture
def celery_broker_cluster(celery_redis_broker):
    from pytest_celery import CeleryBrokerCluster
    yield CeleryBrokerCluster(celery_redis_broker)
"""

DIES = """
import pytest

class TestUnknownOption:
    @pytest.fixture
    def default_worker_command(self, default_worker_command):
        return [*default_worker_command, "--pool=none"]

    def test_it(self, celery_setup): ...

class TestUnknownModule:
    @pytest.fixture
    def default_worker_initial_content(self, default_worker_initial_content):
        default_worker_initial_content["app.py"] += b"import no_such_module"
        return default_worker_initial_content

    def test_it(self, celery_setup): ...

class TestUnknownProgram:
    @pytest.fixture
    def default_worker_command(self):
        return ["no-such-program"]

    def test_it(self, celery_setup): ...
"""


@pytest.fixture
def engine(pytestconfig: pytest.Config) -> Iterator[docker.DockerClient]:
    """Return a client of the engine that this run uses."""
    if not pytestconfig.pluginmanager.has_plugin("celery_locks.testing.docker"):
        pytest.skip("the nodes of this run are no containers; `make test-docker` runs these tests")
    client = docker.from_env()
    yield client
    client.close()


def assert_nothing_is_left(result: pytest.RunResult, client: docker.DockerClient, setups: int) -> None:
    """Check it of all networks and volumes that a run printed the names of, and of containers that had them."""
    made = re.findall(r"^Creating (network|volume) (\S+)$", result.stdout.str(), re.MULTILINE)
    assert sum(kind == "network" for kind, _ in made) == setups
    left = {thing.name for thing in (*client.networks.list(), *client.volumes.list())}
    for container in client.containers.list(all=True, ignore_removed=True):
        left |= {*container.attrs["NetworkSettings"]["Networks"]}
    assert left.isdisjoint({name for _, name in made})


def test_a_worker_that_dies_at_its_start(pytester: pytest.Pytester, engine: docker.DockerClient) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(DIES)
    result = pytester.runpytest_subprocess("-p", "no:valkey", timeout=280)
    result.assert_outcomes(errors=3)
    ended = "*ContainerFailed: the container * ended with exit status 2 before it was ready: correct what its log*"
    result.stdout.fnmatch_lines([ended, "E *Error: Invalid value for '-P' / '--pool': 'none' *"])
    result.stdout.fnmatch_lines([ended, "E *ModuleNotFoundError: No module named 'no_such_module'"])
    unknown = "the engine can't run a container of the image sha256:*: *no-such-program*not found*"
    result.stdout.fnmatch_lines([f"E *APIError: {unknown}. Correct that, or choose another image or command *"])
    assert_nothing_is_left(result, engine, setups=3)


def test_an_image_that_cannot_be_built(pytester: pytest.Pytester, engine: docker.DockerClient) -> None:
    pytester.makeconftest(CONFTEST)
    (pytester.path / "requirements.txt").write_text("celery==1.0\n")
    pytester.makepyfile("def test_it(celery_setup): ...")
    result = pytester.runpytest_subprocess("-p", "no:valkey", timeout=280)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            f"the workers' image could not be built from {pytester.path}: *returned a non-zero code*. Correct what *",
            "ERROR: Cannot install celery==1.0 *",
        ]
    )
    assert_nothing_is_left(result, engine, setups=1)
