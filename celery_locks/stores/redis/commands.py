"""Commands that call scripts by their digests.

A request is repeated at most once, when its connection broke or its reply did not come. The last argument of the
repeat is ``repeat``: the server may have executed the first copy, or may get it later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol

from celery_locks._runtime.tokens import process_number
from celery_locks.stores.redis.hash_tags import lock_keys
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.driver import Driver
from celery_locks.stores.redis.wire.protocol import LENGTHS, Command, arguments, packed, repeated

#: Sends a script's command and returns the reply.
Send = Callable[["Sender", Script, Command], Any]

_request_numbers = count()


class Sender(Protocol):
    """A `Client`, or an object that sends another command first."""

    timeout: float
    #: Whether the requests are repeats.
    repeats: bool

    @property
    def driver(self) -> Driver: ...

    def call(self, *command: Any) -> Any: ...

    def ask(self, command: Command) -> Any: ...

    def ask_all(self, commands: Sequence[Command]) -> list[Any]: ...


def request_id() -> str:
    """Return a new id of a request, which no other request of any process has.

    Several processes may send requests about one owner token: a child after a fork, or the process that restored the
    lease. Scripts compare ids for equality only.
    """
    return f"{process_number()}{next(_request_numbers)}"


def script_command(script: Script, keys: Sequence[str], *args: Any) -> Command:
    """Return the command that calls a script with some keys."""
    return packed(("EVALSHA", script.sha, len(keys), *keys, *args))


def lock_command(script: Script, name: str, token: str, *args: Any, tag: str = "") -> Command:
    """Return the command that calls a script of one lock.

    Args:
        script: The script.
        name: The lock's full name.
        token: The owner token.
        args: The other arguments.
        tag: The hash tag of the lock, in a cluster.
    """
    return packed_lock_command(script, name, token, len(args), arguments(*args), tag)


def packed_lock_command(script: Script, name: str, token: str, args: int, packed_args: str, tag: str = "") -> Command:
    """Return `lock_command` for arguments that are packed already. ``args`` is their number."""
    prefix = name.partition("{")[0]
    if not tag:
        try:  # the usual case: as `arguments`, in a fifth of the time
            own = f"{LENGTHS[len(name)]}{name}\r\n{LENGTHS[len(token)]}{token}\r\n{LENGTHS[len(prefix)]}{prefix}\r\n"
        except IndexError:
            own = ""
        if not own or not own.isascii():
            own = arguments(name, token, prefix)
        return f"*{6 + args}\r\n{script.call_with_one_key}{own}{packed_args}".encode()
    keys = lock_keys(tag, name, prefix)  # on a single server, the scripts make these names when they need them
    own = arguments("EVALSHA", script.sha, len(keys), *keys, token, tag + prefix)
    return f"*{5 + len(keys) + args}\r\n{own}{packed_args}".encode()


def wait_command(replicas: int, timeout: float) -> list[Command]:
    """Return the command that waits for replicas, if any are asked for.

    The server waits until they have what the same connection wrote before, for half of the timeout at most.
    """
    return [packed(("WAIT", replicas, max(1, round(timeout * 500))))] if replicas else []


def evalsha(client: Sender, script: Script, command: Command) -> Any:
    """Call a script; load it first if the server does not know it."""
    if client.repeats:
        command = repeated(command)
    try:
        return client.ask(command)
    except client.driver.no_script:  # the server is new, or forgot its scripts
        client.call("SCRIPT", "LOAD", script.text)
        return client.ask(command)


def evalsha_all(client: Sender, script: Script, commands: Sequence[Command], replicas: int = 0) -> list[Any]:
    """Call a script with many commands in one round trip.

    Args:
        client: Sends all commands over one connection.
        script: The script.
        commands: The commands.
        replicas: How many replicas should have what was written before the replies come.

    Returns:
        The replies. With ``replicas``, one more: how many replicas have it; see `wait_command`.
    """
    if client.repeats:
        commands = [repeated(command) for command in commands]
    batch = [*commands, *wait_command(replicas, client.timeout)]
    replies = client.ask_all(batch)
    if any(isinstance(reply, client.driver.no_script) for reply in replies):
        client.call("SCRIPT", "LOAD", script.text)
        replies = client.ask_all(batch)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
