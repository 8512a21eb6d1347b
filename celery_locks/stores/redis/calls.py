"""How scripts are called: by their digest, and loaded where the server doesn't know them.

A call is repeated at most once, when its connection broke or its answer did not come. Then its last argument is
``repeat``: what the first copy did, and whether it is still to come, is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol

from celery_locks._runtime.tokens import process_number
from celery_locks.stores.redis.parts import lock_keys
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.driver import Driver
from celery_locks.stores.redis.wire.protocol import LENGTHS, Command, arguments, packed, repeated

#: The answer to a script with its command.
Send = Callable[["Sender", Script, Command], Any]


class Sender(Protocol):
    """What sends commands: a `Client`, or one that is asked first."""

    timeout: float
    #: Whether a request is a repeat.
    repeats: bool

    @property
    def driver(self) -> Driver: ...

    def call(self, *command: Any) -> Any: ...

    def ask(self, command: Command) -> Any: ...

    def ask_all(self, commands: Sequence[Command]) -> list[Any]: ...


def call_of(script: Script, keys: Sequence[str], *args: Any) -> Command:
    """The command that calls a script with some keys."""
    return packed(("EVALSHA", script.sha, len(keys), *keys, *args))


def command_of(script: Script, name: str, token: str, *args: Any, tag: str = "") -> Command:
    """The command that calls a script of one lock.

    Args:
        script: Which.
        name: The lock's full name.
        token: The owner token.
        args: What else it gets.
        tag: Comes before all names.
    """
    return command_with(script, name, token, len(args), arguments(*args), tag)


def command_with(script: Script, name: str, token: str, more: int, rest: str, tag: str = "") -> Command:
    """As `command_of`, with so many more arguments, which are packed already."""
    prefix = name.partition("{")[0]
    if not tag:
        try:  # the usual case, as `arguments` would, in a fifth of the time
            own = f"{LENGTHS[len(name)]}{name}\r\n{LENGTHS[len(token)]}{token}\r\n{LENGTHS[len(prefix)]}{prefix}\r\n"
        except IndexError:
            own = ""
        if not own or not own.isascii():
            own = arguments(name, token, prefix)
        return f"*{6 + more}\r\n{script.called}{own}{rest}".encode()
    keys = lock_keys(tag, name, prefix)  # on a single server, the scripts make these names when they need them
    own = arguments("EVALSHA", script.sha, len(keys), *keys, token, tag + prefix)
    return f"*{5 + len(keys) + more}\r\n{own}{rest}".encode()


def request_id() -> str:
    """Return the id of a new request, that no other request of any process has.

    Scripts compare ids for equality only. Requests about one owner token may come from several processes: from a child
    after a fork, or from the process that restored a lease.
    """
    return f"{process_number()}{next(_requests)}"


#: Numbers the requests of this process.
_requests = count()


def evalsha(client: Sender, script: Script, command: Command) -> Any:
    if client.repeats:
        command = repeated(command)
    try:
        return client.ask(command)
    except client.driver.no_script:  # the server is new, or forgot its scripts
        client.call("SCRIPT", "LOAD", script.text)
        return client.ask(command)


def evalsha_all(client: Sender, script: Script, commands: Sequence[Command], replicas: int = 0) -> list[Any]:
    """Calls a script with many commands in one round trip.

    Args:
        client: Sends them, all over one connection.
        script: The script.
        commands: How it is called.
        replicas: How many replicas should have what was written, before the answers come.

    Returns:
        The answers; and, with ``replicas``, how many have it after half of the client's timeout at most.
    """
    if client.repeats:
        commands = [repeated(command) for command in commands]
    batch = [*commands, *waiting(replicas, client.timeout)]
    answers = client.ask_all(batch)
    if any(isinstance(answer, client.driver.no_script) for answer in answers):
        client.call("SCRIPT", "LOAD", script.text)
        answers = client.ask_all(batch)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def waiting(replicas: int, timeout: float) -> list[Command]:
    """The command that waits for replicas, if any are asked for; it speaks of what its own connection wrote before."""
    return [packed(("WAIT", replicas, max(1, round(timeout * 500))))] if replicas else []
