"""Many commands to a Redis Cluster: to each master its own, to all masters at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from celery_locks._runtime.clock import monotonic
from celery_locks.stores.redis.calls import Sender, evalsha, evalsha_all, waiting
from celery_locks.stores.redis.cluster.nodes import Node, Nodes, redirection
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.wire.client import Client
from celery_locks.stores.redis.wire.connection import Connection
from celery_locks.stores.redis.wire.connections import timeout_for
from celery_locks.stores.redis.wire.protocol import Command, packed

#: The number of a command among all.
Number = int
#: What was sent to one master, and by which connection.
_Sent = tuple[Client, Connection, Sequence[Number]]


class TooFewError(Exception):
    """Too few replicas of a master have what was written: so many have it."""

    def __init__(self, confirmed: int) -> None:
        super().__init__(confirmed)
        self.confirmed = confirmed


class FanOut:
    """Commands with the slots that they are about, and what becomes of each.

    All masters are sent theirs before the first answer is read: that takes one round trip. A lease that was renewed
    must hear of it in time, however many other masters hang: each is given half of the time that a single command has,
    and all of them four times that. Where a connection broke, its commands are sent once more.

    Args:
        nodes: The masters.
        commands: Slot and command.
        script: Which the commands call, if they call one.
        ttl: Of the shortest lease that they are about.
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
        self._answers: list[Any] = [None] * len(commands)

    def answers(self) -> list[Any]:
        """The answers in order; an error is an answer too."""
        driver = self._nodes.driver
        self._round(range(len(self._commands)))
        if broken := self._answered_by(driver.broken):
            self._nodes.close_idle()
            self._look_again(broken[0])
        if again := self._again():
            load = () if self._script is None else (packed(("SCRIPT", "LOAD", self._script.text)),)
            self._round(again, load, anew=bool(broken))
        refused = self._answered_by((driver.response_error,))
        self._follow([number for number in refused if redirection(self._answers[number], ("", 0))[0]])
        return self._answers

    def _again(self) -> list[Number]:
        """What to send once more: what did not know the script, and what broke.

        A renewal is sent once more only while there is time: the renewer tries again soon anyway.
        """
        driver = self._nodes.driver
        in_time = self._ttl is None or self._elapsed() < timeout_for(self._ttl, self._nodes.timeouts.request)
        return self._answered_by((driver.no_script, *driver.broken) if in_time else (driver.no_script,))

    def _elapsed(self) -> float:
        return monotonic() - self._began

    def _look_again(self, broken: Number) -> None:
        with suppress(*self._nodes.driver.errors):
            self._nodes.refresh(self._nodes.of(self._commands[broken][0], self._ttl), self._ttl)

    def _answered_by(self, errors: tuple[type[Exception], ...]) -> list[Number]:
        return [number for number, answer in enumerate(self._answers) if isinstance(answer, errors)]

    def _round(self, numbers: Sequence[Number], before: Sequence[Command] = (), anew: bool = False) -> None:
        sent: list[_Sent] = []
        try:
            for client, own in self._by_client(numbers):
                self._send(sent, client.anew() if anew else client, own, before)
            while sent:
                self._receive(sent.pop(0), len(before))
        finally:
            for _, connection, _ in sent:  # this thread was interrupted: no one reads these answers
                connection.disconnect()

    def _by_client(self, numbers: Sequence[Number]) -> list[tuple[Client, list[Number]]]:
        """To each master its own; first to those that there are connections to, since the others may not be there."""
        own: dict[Node, list[Number]] = {}
        for number in numbers:
            node = self._node(self._commands[number][0])
            if isinstance(node, Node):
                own.setdefault(node, []).append(number)
            else:
                self._answers[number] = node
        found = [(node.for_ttl(self._ttl), numbers) for node, numbers in own.items()]
        return sorted(found, key=lambda each: not each[0].connected)

    def _node(self, slot: int) -> Node | Exception:
        try:
            return self._nodes.of(slot, self._ttl)
        except self._nodes.driver.errors as error:
            return error

    def _send(self, sent: list[_Sent], client: Client, own: Sequence[Number], before: Sequence[Command]) -> None:
        if not client.connected and self._elapsed() > 1.5 * client.timeout:  # two others let us wait already
            self._failed(own, self._too_late())
            return
        batch = [*before, *(self._commands[number][1] for number in own), *waiting(self._replicas, client.timeout)]
        try:
            sent.append((client, client.send(batch), own))
        except self._nodes.driver.errors as error:
            self._failed(own, error)

    def _receive(self, sent: _Sent, before: int) -> None:
        client, connection, own = sent
        try:
            answers = client.receive(connection, before + len(own) + (1 if self._replicas else 0))[before:]
        except self._nodes.driver.errors as error:
            self._failed(own, error)
            return
        if self._replicas:
            confirmed = answers.pop()
            if not isinstance(confirmed, int) or confirmed < self._replicas:
                self._failed(own, confirmed if isinstance(confirmed, Exception) else TooFewError(int(confirmed)))
                return
        for number, answer in zip(own, answers, strict=True):
            self._answers[number] = answer

    def _too_late(self) -> Exception:
        return self._nodes.driver.timeout_error("a master of the cluster did not answer in time")

    def _failed(self, numbers: Sequence[Number], error: Exception) -> None:
        for number in numbers:
            self._answers[number] = error

    def _follow(self, numbers: Sequence[Number]) -> None:
        """Goes where answers said that slots are. What moves just now is waited for once, not by each command."""
        moving = dict[int, Exception]()
        for number in numbers:
            slot, command = self._commands[number]
            answer = moving[slot] if slot in moving else self._alone(slot, command)
            if isinstance(answer, Exception):
                moving[slot] = answer
            self._answers[number] = answer

    def _alone(self, slot: int, command: Command) -> Any:
        """The answer to one command; an error is an answer too."""
        try:
            return self._nodes.serve(slot, lambda client: self._ask(client, command), self._ttl)
        except self._nodes.driver.errors as error:
            return error

    def _ask(self, client: Sender, command: Command) -> Any:
        if self._script is None:
            return client.ask(command)
        if not self._replicas:
            return evalsha(client, self._script, command)
        answer, confirmed = evalsha_all(client, self._script, [command], self._replicas)
        return answer if confirmed >= self._replicas else TooFewError(int(confirmed))
