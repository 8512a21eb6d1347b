"""Many commands to a Redis Cluster, sent to all masters at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from celery_locks._runtime.clock import monotonic
from celery_locks.stores.redis.cluster.nodes import Node, Nodes, redirection
from celery_locks.stores.redis.commands import Sender, evalsha, evalsha_all, wait_command
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.client import Client
from celery_locks.stores.redis.wire.connection import Connection
from celery_locks.stores.redis.wire.connections import timeout_for
from celery_locks.stores.redis.wire.protocol import Command, packed

#: The position of a command in the batch.
Number = int
#: The client and the connection of one master, and the commands that were sent to it.
_Sent = tuple[Client, Connection, Sequence[Number]]


class TooFewError(Exception):
    """Too few replicas of a master have what was written. ``confirmed`` replicas have it."""

    def __init__(self, confirmed: int) -> None:
        super().__init__(confirmed)
        self.confirmed = confirmed


class FanOut:
    """A batch of commands, each about one slot.

    All masters get their commands before the first reply is read: that takes one round trip. A renewed lease must know
    it in time, even if other masters hang. So each master has half of the time of a single command, and all of them
    four times that. When a connection broke, its commands are sent once more.

    Args:
        nodes: The masters.
        commands: The slot and the text of each command.
        script: The script that the commands call, if they call one.
        ttl: The ttl of the shortest lease that they are about.
        replicas: How many replicas of each master should have what was written.
    """

    def __init__(
        self,
        nodes: Nodes,
        commands: Sequence[tuple[int, Command]],
        script: Script | None = None,
        ttl: float | None = None,
        replicas: int = 0,
    ) -> None:
        self._nodes, self._commands, self._script = nodes, commands, script
        self._ttl, self._replicas = None if ttl is None else ttl / 2, replicas
        self._began = monotonic()
        self._replies: list[Any] = [None] * len(commands)

    def replies(self) -> list[Any]:
        """Return the replies in order; an error is a reply too."""
        driver = self._nodes.driver
        self._round(range(len(self._commands)))
        if broken := self._failed_with(driver.broken):
            self._nodes.close_idle()
            self._refresh(broken[0])
        if again := self._again():
            load = () if self._script is None else (packed(("SCRIPT", "LOAD", self._script.text)),)
            self._round(again, load, repeats=bool(broken))
        refused = self._failed_with((driver.response_error,))
        self._follow([number for number in refused if redirection(self._replies[number], ("", 0))[0]])
        return self._replies

    def _again(self) -> list[Number]:
        """Return the commands to send once more: the server did not know the script, or the connection broke.

        After a broken connection a renewal is sent once more only while there is time: the renewer tries again anyway.
        """
        driver = self._nodes.driver
        in_time = self._ttl is None or self._elapsed() < timeout_for(self._ttl, self._nodes.timeouts.request)
        return self._failed_with((driver.no_script, *driver.broken) if in_time else (driver.no_script,))

    def _elapsed(self) -> float:
        return monotonic() - self._began

    def _refresh(self, broken: Number) -> None:
        with suppress(*self._nodes.driver.errors):
            self._nodes.refresh(self._nodes.of(self._commands[broken][0], self._ttl), self._ttl)

    def _failed_with(self, errors: tuple[type[Exception], ...]) -> list[Number]:
        return [number for number, reply in enumerate(self._replies) if isinstance(reply, errors)]

    def _round(self, numbers: Sequence[Number], before: Sequence[Command] = (), repeats: bool = False) -> None:
        sent: list[_Sent] = []
        try:
            for client, own in self._by_client(numbers):
                self._send(sent, client.for_repeat() if repeats else client, own, before)
            while sent:
                self._receive(sent.pop(0), len(before))
        finally:
            for _, connection, _ in sent:  # this thread was interrupted: no one reads these replies
                connection.disconnect()

    def _by_client(self, numbers: Sequence[Number]) -> list[tuple[Client, list[Number]]]:
        """Return the commands of each master. Masters with an idle connection come first: others may be down."""
        own: dict[Node, list[Number]] = {}
        for number in numbers:
            node = self._node(self._commands[number][0])
            if isinstance(node, Node):
                own.setdefault(node, []).append(number)
            else:
                self._replies[number] = node
        found = [(node.for_ttl(self._ttl), numbers) for node, numbers in own.items()]
        return sorted(found, key=lambda each: not each[0].connected)

    def _node(self, slot: int) -> Node | Exception:
        try:
            return self._nodes.of(slot, self._ttl)
        except self._nodes.driver.errors as error:
            return error

    def _send(self, sent: list[_Sent], client: Client, own: Sequence[Number], before: Sequence[Command]) -> None:
        if not client.connected and self._elapsed() > 1.5 * client.timeout:  # other masters used the time
            self._failed(own, self._nodes.driver.timeout_error("a master of the cluster did not reply in time"))
            return
        batch = [*before, *(self._commands[number][1] for number in own), *wait_command(self._replicas, client.timeout)]
        try:
            sent.append((client, client.send(batch), own))
        except self._nodes.driver.errors as error:
            self._failed(own, error)

    def _receive(self, sent: _Sent, before: int) -> None:
        client, connection, own = sent
        try:
            replies = client.receive(connection, before + len(own) + (1 if self._replicas else 0))[before:]
        except self._nodes.driver.errors as error:
            self._failed(own, error)
            return
        if self._replicas:
            confirmed = replies.pop()
            if not isinstance(confirmed, int) or confirmed < self._replicas:
                self._failed(own, confirmed if isinstance(confirmed, Exception) else TooFewError(int(confirmed)))
                return
        for number, reply in zip(own, replies, strict=True):
            self._replies[number] = reply

    def _failed(self, numbers: Sequence[Number], error: Exception) -> None:
        for number in numbers:
            self._replies[number] = error

    def _follow(self, numbers: Sequence[Number]) -> None:
        """Send commands again, to the masters that the replies named. Wait once for each slot that moves just now."""
        moving = dict[int, Exception]()
        for number in numbers:
            slot, command = self._commands[number]
            reply = moving[slot] if slot in moving else self._alone(slot, command)
            if isinstance(reply, Exception):
                moving[slot] = reply
            self._replies[number] = reply

    def _alone(self, slot: int, command: Command) -> Any:
        """Send one command and return the reply; an error is a reply too."""
        try:
            return self._nodes.serve(slot, lambda client: self._ask(client, command), self._ttl)
        except self._nodes.driver.errors as error:
            return error

    def _ask(self, client: Sender, command: Command) -> Any:
        if self._script is None:
            return client.ask(command)
        if not self._replicas:
            return evalsha(client, self._script, command)
        reply, confirmed = evalsha_all(client, self._script, [command], self._replicas)
        return reply if confirmed >= self._replicas else TooFewError(int(confirmed))
