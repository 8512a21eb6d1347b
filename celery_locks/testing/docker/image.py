"""The workers' image: the project under test, with the versions of the packages that its tests use."""

from __future__ import annotations

import io
import re
import shlex
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import pytest
from docker.errors import APIError, BuildError
from docker.models.images import Image
from docker.utils.build import exclude_paths

import celery_locks
from celery_locks.testing.docker.engine import DockerEngine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

#: Files that workers don't need, as in a .dockerignore. The project's own adds to it.
_NOT_SENT = (
    "**/.git",
    "**/.hg",
    "**/.svn",
    "**/.venv",
    "**/.env",
    "**/.tox",
    "**/.nox",
    "**/.direnv",
    "**/node_modules",
    "**/__pycache__",
    "**/*.pyc",
    "**/*.egg-info",
    "**/.*_cache",
    "**/.hypothesis",
    "**/.coverage*",
    "**/.idea",
    "**/.vscode",
    "**/.DS_Store",
    "build",
    "dist",
)
#: The project's own list of what it needs.
_LISTED = "requirements.txt"
#: Lines of a build that an error shows.
_LINES_SHOWN = 30
_WHAT_TO_DO = (
    "Correct what the build reports, or override a fixture: default_worker_base_image (the image to begin with), "
    "default_worker_requirements (what is installed), or celery_base_worker_image (an image of your own)"
)
#: Variables of the tests that pip in the build gets too: where packages come from.
_PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")

# Layers in the order in which they change: packages first, the project's source last. The metadata of celery-locks is
# enough for pip to install what it needs. Where pip puts packages differs from one image of Python to another.
_DOCKERFILE = """\
FROM {base}
{variables}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PROGRESS_BAR=off PYTHONUNBUFFERED=1 HOME=/tmp
COPY metadata /metadata
RUN cp -r /metadata/. "$({packages})"
COPY requirements.txt constraints.txt /requirements/
RUN pip install --no-cache-dir -r /requirements/requirements.txt -c /requirements/constraints.txt
COPY celery-locks /celery-locks
RUN packages="$({packages})" && cp -r /celery-locks/. "$packages" && python -m compileall -q "$packages/celery_locks"
COPY project /project
{install}
RUN printf '%s\\n' {paths} > "$({packages})/project.pth"
WORKDIR /app
"""
_PACKAGES = """python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'"""


@dataclass
class WorkerImage:
    """What the workers' image is made of.

    Args:
        root: The project's folder.
        base: The image that it begins with; it has ``python`` and ``pip``.
        requirements: What is installed alongside the project, as for pip.
        versions: Versions of packages, where these are installed at all.
        import_path: Folders that the tests import from.
    """

    root: Path
    base: str
    requirements: Iterable[str]
    versions: Mapping[str, str]
    import_path: Iterable[str | Path] = field(default_factory=lambda: tuple(sys.path))

    def dockerfile(self) -> str:
        """Return the text of the Dockerfile."""
        return _DOCKERFILE.format(
            base=self.base,
            packages=_PACKAGES,
            variables="\n".join(f"ARG {name}" for name in _PIP_VARIABLES),
            install=self._install(),
            paths=shlex.join(self._import_path()),
        )

    def context(self) -> IO[bytes]:
        """Return the context of the build, a tar archive that is the same for the same files, as the cache needs."""
        stream = tempfile.TemporaryFile()  # noqa: SIM115 - it is read by the caller
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, text in (
                ("Dockerfile", self.dockerfile()),
                ("requirements.txt", _lines(self._all_requirements())),
                ("constraints.txt", _lines(f"{name}=={version}" for name, version in sorted(self.versions.items()))),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))
            for name, path in (*_own_files(), *self._files()):
                archive.add(path, name, recursive=False, filter=_for_everyone)
        stream.seek(0)
        return stream

    def build(self, engine: DockerEngine, pip_variables: Mapping[str, str]) -> Image:
        """Build it, and return docker-py's image; fail the test, with the end of what the build printed."""
        tag = "celery-locks/worker:" + (re.sub(r"[^a-z0-9]+", "-", self.root.name.lower()).strip("-") or "project")
        with self.context() as context:
            try:
                image, _ = engine.images.build(
                    fileobj=context,
                    custom_context=True,
                    tag=tag,
                    rm=True,
                    forcerm=True,
                    buildargs={name: pip_variables[name] for name in _PIP_VARIABLES if name in pip_variables},
                    use_config_proxy=True,
                )
            except (BuildError, APIError) as error:
                printed = "".join(line.get("stream", "") for line in getattr(error, "build_log", ()))
                end = "\n".join(re.sub(r"\x1b\[[\d;]*m", "", printed).splitlines()[-_LINES_SHOWN:])
                raise pytest.fail.Exception(
                    f"the workers' image could not be built from {self.root}: {error}. {_WHAT_TO_DO}. "
                    f"The end of what the build printed:\n{end}",
                    pytrace=False,
                ) from None
        return image

    def _install(self) -> str:
        if self.root == _own_root():
            return ""  # it is there as a package that the tests use
        install, constraints = "RUN cd /project && pip install --no-cache-dir", "-c /requirements/constraints.txt"
        version = self._known_version() if "version" in self._project().get("dynamic", ()) else ""
        steps = [f"{install.replace('pip', f'{version}pip')} . {constraints}"] if self._is_installable() else []
        if listed := self._listed():
            # pip accepts no constraints without hashes alongside hashes.
            steps.append(f"{install} -r {_LISTED}" + ("" if "--hash" in listed else f" {constraints}"))
        return "\n".join(steps)

    def _is_installable(self) -> bool:
        return (self.root / "setup.py").exists() or not self._pyproject().keys().isdisjoint({"project", "build-system"})

    def _all_requirements(self) -> list[str]:
        """Return what is installed before the project's source is there, and so once for many versions of that."""
        listed = "" if "--hash" in self._listed() else self._listed()
        plain = [line for line in listed.splitlines() if re.match(r"\w[^/\\]*$", line)]
        return [*self.requirements, *self._project().get("dependencies", ()), *plain]

    def _listed(self) -> str:
        file = self.root / _LISTED
        return file.read_text("utf-8") if file.exists() else ""

    def _known_version(self) -> str:
        """Return the variable by which tools learn the project's version that they would read from git."""
        try:
            return f"SETUPTOOLS_SCM_PRETEND_VERSION={metadata.version(self._project()['name'])} "
        except metadata.PackageNotFoundError:
            return ""

    def _project(self) -> dict[str, Any]:
        table: dict[str, Any] = self._pyproject().get("project", {})
        return table

    def _pyproject(self) -> dict[str, Any]:
        file = self.root / "pyproject.toml"
        return tomllib.loads(file.read_text("utf-8")) if file.exists() else {}

    def _import_path(self) -> list[str]:
        folders = dict.fromkeys(Path(entry or ".").resolve() for entry in (*self.import_path, self.root))
        inside = [folder.relative_to(self.root) for folder in folders if folder.is_relative_to(self.root)]
        return [(Path("/project") / folder).as_posix() for folder in inside if "site-packages" not in folder.parts]

    def _files(self) -> Iterator[tuple[str, Path]]:
        environments = [f"{file.parent.relative_to(self.root).as_posix()}" for file in self.root.glob("*/pyvenv.cfg")]
        ignore = self.root / ".dockerignore"
        patterns = [*_NOT_SENT, *environments, *(ignore.read_text("utf-8").splitlines() if ignore.exists() else ())]
        for name in sorted(exclude_paths(str(self.root), [line for line in patterns if line and line[0] != "#"])):
            path = self.root / name
            if path.is_symlink() or path.is_dir() or path.is_file():
                yield f"project/{Path(name).as_posix()}", path


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that the tests use, without packages that were built locally."""
    found = {}
    for package in metadata.distributions():
        if package.metadata["Name"] and package.read_text("direct_url.json") is None and "+" not in package.version:
            found[package.metadata["Name"].lower()] = package.version
    for ours in ("celery-locks", "pip", "setuptools", "wheel"):
        found.pop(ours, None)
    return found


def default_requirements(celery_version: str, pytest_celery: str) -> list[str]:
    """Return what workers need alongside the project: the extras and pools that the tests have installed.

    Args:
        celery_version: The version of Celery; that of the tests, if empty.
        pytest_celery: What is installed as pytest-celery, which the workers' modules import.
    """
    stores = [
        "redis",
        *(name for name, module in (("postgresql", "psycopg"), ("valkey", "valkey")) if find_spec(module)),
    ]
    pools = [name for name in ("gevent", "eventlet") if find_spec(name)]
    return [
        f"celery=={celery_version or metadata.version('celery')}",
        pytest_celery,
        f"celery-locks[{','.join(stores)}]",
        *pools,
    ]


def _own_root() -> Path:
    return Path(celery_locks.__file__).resolve().parents[1]


def _own_files() -> Iterator[tuple[str, Path]]:
    """Yield the files of celery-locks as the tests import it, from wherever that is, with its metadata."""
    root, installed = _own_root(), metadata.distribution("celery-locks")
    files = [root / "pytest_celery_locks.py", *(root / "celery_locks").rglob("*")]
    for path in sorted(file for file in files if file.is_file() and "__pycache__" not in file.parts):
        yield f"celery-locks/{path.relative_to(root).as_posix()}", path
    for name in ("METADATA", "entry_points.txt"):
        path = Path(str(installed.locate_file(f"celery_locks-{installed.version}.dist-info/{name}")))
        yield f"metadata/{path.parent.name}/{name}", path


def _for_everyone(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an entry that is the same for each user, and that each user may read."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode |= 0o555 if entry.isdir() or entry.mode & 0o100 else 0o444
    return entry


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
