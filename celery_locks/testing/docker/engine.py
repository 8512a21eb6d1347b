"""The Docker engine: connect to it, remove containers that fail, report why they ended."""

from __future__ import annotations

import os
import secrets
import shlex
import time
from contextlib import suppress
from typing import Any

import pytest
from docker.client import DockerClient
from docker.constants import DEFAULT_TIMEOUT_SECONDS
from docker.context import ContextAPI
from docker.errors import APIError, DockerException
from docker.models.containers import Container, ContainerCollection
from pytest_celery import CONTAINER_TIMEOUT, CeleryTestContainer
from pytest_docker_tools.exceptions import ContainerFailed
from pytest_docker_tools.wrappers import Container as Wrapper

from celery_locks.testing.nodes import failure

#: Seconds within which an engine must answer.
_ANSWER_TIMEOUT_SECONDS = 5
#: Seconds between two checks of a container that starts.
_POLL_SECONDS = 0.1
_LABEL = "celery-locks.start"


class Containers(ContainerCollection):
    """docker-py's containers. One that fails to start is removed, and so are the volumes of its image."""

    class model(Container):  # noqa: N801 - docker-py's name
        def remove(self, **options: Any) -> None:
            super().remove(**{"v": True, **options})

    def run(self, *args: Any, **options: Any) -> Any:
        """Run a container. Remove it if it was made and could not be started."""
        mark = f"{_LABEL}={secrets.token_hex(8)}"
        labels = dict([mark.split("=")], **options.pop("labels", {}))
        try:
            return super().run(*args, labels=labels, **options)
        except BaseException as error:
            for container in self.list(all=True, filters={"label": mark}):
                container.remove(force=True)
            if not isinstance(error, DockerException):
                raise  # the tests are interrupted
            cause = getattr(error, "explanation", None) or error
            image = args[0] if args else options.get("image")
            raise APIError(
                f"the engine can't run a container of the image {image}: {cause}. Correct that, "
                "or choose another image or command by pytest-celery's fixtures"
            ) from None


class DockerEngine(DockerClient):
    """docker-py's client with `Containers`."""

    @property
    def containers(self) -> Containers:
        return Containers(client=self)


def connect() -> DockerEngine:
    """Return a client of the engine, or fail the test when none answers."""
    try:
        engine: DockerEngine = DockerEngine.from_env(timeout=_ANSWER_TIMEOUT_SECONDS)  # asks the engine for its version
    except DockerException as error:
        raise pytest.fail.Exception(
            f"no Docker engine answers at {address()}: {_cause(error)}. Start one, or set DOCKER_HOST to its address, "
            "or run the nodes as processes of this machine: "
            "pytest -p no:celery_locks.testing.docker -p celery_locks.testing.local",
            pytrace=False,
        ) from None
    engine.api.timeout = DEFAULT_TIMEOUT_SECONDS
    return engine


def address() -> str:
    """Return the address at which docker-py expects the engine."""
    if named := os.environ.get("DOCKER_HOST"):
        return f"{named} (DOCKER_HOST)"
    context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
    return f"{context.Host} (DOCKER_HOST is not set)" if context is not None else "its default address"


def _cause(error: BaseException) -> str:
    """Return the innermost cause, which the operating system reported."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return str(error)


def ready(self: CeleryTestContainer) -> bool:
    """Wait until it serves its ports and has logged that it is ready.

    Raises:
        ContainerFailed: It has ended. Shows its log.
    """
    prompt, deadline = self.ready_prompt or "", time.monotonic() + CONTAINER_TIMEOUT
    while time.monotonic() < deadline:
        self.reload()
        if self.status in ("exited", "dead"):
            raise ContainerFailed(self, _ended(self))
        # The container may end at each of these steps. The next check reports it.
        with suppress(ContainerFailed, APIError, IndexError):
            if Wrapper.ready(self) and prompt in self.logs():
                return True
        time.sleep(_POLL_SECONDS)
    return False


def _ended(container: CeleryTestContainer) -> str:
    state, config = container.attrs["State"], container.attrs["Config"]
    killed = " (killed: out of memory)" if state.get("OOMKilled") else ""
    what = f"ended with exit status {state['ExitCode']}{killed} before it was ready"
    return failure(f"the container {container.name}", what, shlex.join(config.get("Cmd") or []), container.logs())
