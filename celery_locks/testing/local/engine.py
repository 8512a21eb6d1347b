"""A Docker engine whose containers are processes of this machine.

pytest-celery runs its nodes by docker-py. `LocalEngine` replaces docker-py's client, as far as pytest-celery and
pytest-docker-tools use it: networks, volumes, images, and containers that run a `Program`. So pytest-celery works
unchanged, and so do fixtures that a project makes by ``pytest_docker_tools.container``.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound

from celery_locks.testing.local import processes
from celery_locks.testing.local.container import IN_CONTAINERS, LocalContainer, variables


@dataclass(kw_only=True)
class _Named:
    """The common attributes of docker-py's networks and volumes."""

    name: str
    labels: Mapping[str, str]

    @property
    def id(self) -> str:
        return self.name

    @property
    def attrs(self) -> dict[str, Any]:
        return {"Name": self.name, "Labels": dict(self.labels)}


@dataclass(kw_only=True)
class _Volume(_Named):
    """A folder that containers share."""

    folder: Path

    @property
    def attrs(self) -> dict[str, Any]:
        return {**super().attrs, "Mountpoint": str(self.folder)}

    def remove(self, force: bool = False) -> None:
        processes.remove_folder(self.folder)


class _Network(_Named):
    """A name only: all processes of a machine reach each other."""

    def remove(self) -> None:
        """Do nothing: a name needs no removal."""


@dataclass
class _Image:
    """A name only. Nothing is built: a worker runs in the environment of the tests."""

    id: str
    tags: list[str]


class LocalEngine:
    """docker-py's client, as far as pytest-celery uses it. Its containers are processes.

    After `close`, no process and no folder is left.
    """

    def __init__(self) -> None:
        self.containers = _Containers(self)
        self.images = _Images()
        self.networks = _Networks()
        self.volumes = _Volumes()

    def ping(self) -> bool:
        return True

    def close(self) -> None:
        """Kill and remove all containers and volumes."""
        for container in self.containers.list(all=True):
            self.containers.forget(container)
        self.volumes.close()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Containers:
    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._made: dict[str, LocalContainer] = {}

    def create(
        self,
        image: Any,
        command: str | Sequence[str] | None = None,
        *,
        environment: Mapping[str, Any] | Sequence[str] | None = None,
        volumes: Mapping[str, Mapping[str, str]] | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        working_dir: str | None = None,
        ports: Mapping[str, Any] | None = None,
        entrypoint: object = None,
        **_: Any,
    ) -> LocalContainer:
        """Make a container, without starting it. Networks, users and limits change nothing here.

        Raises:
            APIError: It has an entrypoint, or ports that its program does not serve.
            ImageNotFound: No program of this machine stands for its image.
        """
        if entrypoint is not None:
            raise APIError(f"local nodes run no entrypoint={entrypoint!r}: give the whole command line as command=")
        words = shlex.split(command) if isinstance(command, str) else list(command or ())
        binds = self._engine.volumes.binds(volumes or {})
        image = str(getattr(image, "id", image))
        container = LocalContainer(image, words, variables(environment), binds, labels or {}, name, working_dir)
        served = container.program.port_name
        if served is not None and (others := sorted(set(ports or {}) - {served})):
            container.remove(force=True)
            raise APIError(f"the local program for {image} serves {served}, not {', '.join(others)}: {IN_CONTAINERS}")
        self._made[container.id] = container
        return container

    def run(self, image: Any, command: str | Sequence[str] | None = None, **options: Any) -> LocalContainer:
        """Make a container and start it; return it when it is ready.

        Raises:
            NodeFailed: It does not start. It has been removed.
        """
        container = self.create(image, command, **options)
        try:
            container.start()
        except BaseException:
            self.forget(container)
            raise
        return container

    def get(self, id_or_name: str) -> LocalContainer:
        for container in self.list(all=True):
            if container.name == id_or_name or container.id.startswith(id_or_name):
                return container
        raise NotFound(f"there is no container {id_or_name}")

    def list(self, all: bool = False, **_: Any) -> list[LocalContainer]:
        return [each for each in self._made.values() if each.folder.exists() and (all or each.status == "running")]

    def forget(self, container: LocalContainer) -> None:
        self._made.pop(container.id, None)
        container.remove(force=True)


class _Images:
    def build(self, *, tag: str | None = None, **_: Any) -> tuple[_Image, Iterator[dict[str, str]]]:
        return _Image(f"sha256:{secrets.token_hex(32)}", [tag] if tag else []), iter(())

    def get(self, name: str) -> _Image:
        return _Image(name, [name])

    def pull(self, repository: str, tag: str | None = None, **_: Any) -> _Image:
        return self.get(f"{repository}:{tag}" if tag else repository)


class _Networks:
    def create(self, name: str, labels: Mapping[str, str] | None = None, **_: Any) -> _Network:
        return _Network(name=name, labels=labels or {})

    def get(self, name: str) -> _Network:
        raise NotFound(f"there is no network {name}")


class _Volumes:
    def __init__(self) -> None:
        self._made: dict[str, _Volume] = {}

    def create(self, name: str | None = None, labels: Mapping[str, str] | None = None, **_: Any) -> _Volume:
        volume = _Volume(name=name or secrets.token_hex(16), labels=labels or {}, folder=processes.make_folder())
        self._made[volume.name] = volume
        return volume

    def get(self, name: str) -> _Volume:
        if name not in self._made or not self._made[name].folder.exists():
            raise NotFound(f"there is no volume {name}")
        return self._made[name]

    def binds(self, volumes: Mapping[str, Mapping[str, str]] | Sequence[str]) -> dict[str, Path]:
        """Return the folders of this machine by where a container has them, the innermost first."""
        if not isinstance(volumes, Mapping):
            pairs = [text.split(":")[:2] for text in volumes]
        else:
            pairs = [[name, options["bind"]] for name, options in volumes.items()]
        found = {bind: self._made[name].folder if name in self._made else Path(name) for name, bind in pairs}
        for bind, folder in found.items():
            self._link(bind, folder, found)
        return dict(sorted(found.items(), key=lambda item: len(item[0]), reverse=True))

    def _link(self, bind: str, folder: Path, binds: Mapping[str, Path]) -> None:
        """Link a folder that is mounted inside a volume into the volume. Nothing is written to a project's folders."""
        own = {volume.folder for volume in self._made.values()}
        for outer, outside in binds.items():
            if outside in own and bind.startswith(outer.rstrip("/") + "/"):
                place = outside / bind[len(outer.rstrip("/")) + 1 :]
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.is_symlink():
                    place.unlink()
                if not place.exists():
                    place.symlink_to(folder.resolve(), target_is_directory=folder.is_dir())

    def close(self) -> None:
        for volume in self._made.values():
            volume.remove()
