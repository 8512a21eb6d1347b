"""The masters of a Redis Cluster, and the slots that they serve.

redis-py's own ``RedisCluster`` is not used. A command by it costs more than a whole lock. It has one timeout for all
commands. Greenlets and the real thread that renews would share its locks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from celery_locks._runtime.clock import monotonic
from celery_locks.stores.redis.commands import Sender
from celery_locks.stores.redis.remedies import KEYS, RIGHTS
from celery_locks.stores.redis.wire.connections import Connections, as_text
from celery_locks.stores.redis.wire.driver import Driver
from celery_locks.stores.redis.wire.protocol import Command, packed
from celery_locks.stores.redis.wire.urls import DEFAULT_TIMEOUTS, Timeouts

T = TypeVar("T")
Place = tuple[str, int]

#: Seconds until a command is sent again while its slot moves.
MOVE_PAUSE_SECONDS = 0.02
#: How many redirections a command follows without a pause: masters may disagree for a moment.
REDIRECTIONS = 3
_CODES = {
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "CLUSTERDOWN",
}


class Node(Connections):
    """The connections to one master."""

    rights = f"{RIGHTS} +cluster|slots +asking"
    keys = KEYS.replace("~", "~{*}")

    def __init__(self, client: Any, name: str, place: Place, timeouts: Timeouts) -> None:
        super().__init__(client, name, timeouts)
        self.place = place


class Asking:
    """A client of the node that a slot moves to. During the move, the node serves commands after ``ASKING`` only."""

    def __init__(self, client: Sender) -> None:
        self._client = client
        self.timeout, self.repeats, self.driver = client.timeout, client.repeats, client.driver

    def call(self, *command: Any) -> Any:
        return self.ask(packed(command))

    def ask(self, command: Command) -> Any:
        reply = self.ask_all([command])[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, of which only the first may be about the slot."""
        return self._client.ask_all([packed(["ASKING"]), *commands])[1:]


class Nodes:
    """The masters of a cluster.

    Args:
        driver: The library to connect with.
        settings: Its settings of a connection, without host and port.
        places: The nodes to ask first.
        name: The cluster's address without its password, for errors.
        timeouts: The longest times to connect, and for a request.
    """

    def __init__(
        self,
        driver: Driver,
        settings: Mapping[str, Any],
        places: Iterable[Place],
        name: str,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.driver = driver
        self._settings = dict(settings)
        self._first = tuple(places)
        self._name = name
        self.timeouts = timeouts
        self._nodes: dict[Place, Node] = {}
        #: Slot → its master. Each command reads it, without a lock.
        self._serving: dict[int, Node] = {}

    def of(self, slot: int, ttl: float | None = None) -> Node:
        """Return the master of a slot.

        Raises:
            redis.RedisError: No node replies, or none serves the slot.
        """
        node = self._serving.get(slot)
        if node is None:
            self.refresh(ttl=ttl)
            node = self._serving.get(slot)
        if node is None:
            raise self.driver.response_error(f"CLUSTERDOWN no node serves slot {slot}")
        return node

    def masters(self) -> tuple[Node, ...]:
        """Return the masters that are known to serve a slot.

        Raises:
            redis.RedisError: No node replies.
        """
        if not self._serving:
            self.refresh()
        return tuple({node.place: node for node in list(self._serving.values())}.values())

    def first(self) -> Node:
        """Return the first node."""
        return self.at(self._first[0])

    def at(self, place: Place) -> Node:
        node = self._nodes.get(place)
        return self._nodes.setdefault(place, self._connect(place)) if node is None else node

    def refresh(self, broken: Node | None = None, ttl: float | None = None) -> None:
        """Ask the nodes one after the other which master serves which slot.

        Args:
            broken: The node to ask last.
            ttl: Each node has the time that a command about a lease with this ttl has.

        Raises:
            redis.RedisError: No node replies.
        """
        known = dict.fromkeys([*(node.place for node in list(self._serving.values())), *self._first])
        places = sorted(known, key=lambda place: broken is not None and place == broken.place)
        error: Exception | None = None
        for place in places:
            ranges, error = self._ask(place, ttl)
            if ranges is not None:
                masters = [(self.at(master), slots) for master, slots in ranges]
                self._serving = {slot: node for node, slots in masters for slot in slots}
                self._forget_others()
                return
        assert error is not None
        raise error

    def _forget_others(self) -> None:
        """Close the connections to nodes that serve no slot. Otherwise each replaced node would leave some."""
        needed = {node.place for node in list(self._serving.values())}.union(self._first)
        for place in set(self._nodes) - needed:
            if node := self._nodes.pop(place, None):
                node.close()

    def close_idle(self) -> None:
        """Close the idle connections. If one broke or hangs, the others may have the same trouble."""
        for node in list(self._nodes.values()):
            node.close_idle()

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    def serve(self, slot: int, call: Callable[[Sender], T], ttl: float | None) -> T:
        """Call a function with a client of the node that serves a slot. Follow the redirections of the cluster.

        While a slot moves, no node runs a script about it, since some keys are on one node and some on another. The
        call is repeated for as long as one command may take.

        Raises:
            redis.RedisError: The node failed twice, or no node served the slot in time.
        """
        node, asking, broken, redirections = self.of(slot, ttl), False, False, 0
        until: float | None = None
        while True:
            client = node.for_ttl(ttl)
            if broken:
                client = client.for_repeat()
            try:
                return call(Asking(client) if asking else client)
            except self.driver.broken:
                if broken:
                    raise
                self.close_idle()
                self.refresh(node, ttl)
                node, asking, broken = self.of(slot, ttl), False, True
            except self.driver.response_error as error:
                code, place = redirection(error, node.place)
                until = monotonic() + client.timeout if until is None else until
                if not code or monotonic() >= until:
                    raise
                redirections += 1
                if place is None or redirections > REDIRECTIONS:
                    time.sleep(MOVE_PAUSE_SECONDS)
                asking = code == "ASK"
                if place is None:
                    node = self.of(slot, ttl)
                else:
                    node = self.at(place)
                    if not asking:  # the slot has moved for good
                        self._serving[slot] = node

    def _ask(self, place: Place, ttl: float | None) -> tuple[list[tuple[Place, range]] | None, Exception | None]:
        """Return ranges of slots with their masters, or the error of the node."""
        try:
            reply = self.at(place).for_ttl(ttl).for_repeat().call("CLUSTER", "SLOTS")
        except self.driver.errors as error:
            return None, error
        # A node that doesn't know its own address sends none.
        return [
            ((as_text(master[0] or place[0]), int(master[1])), range(int(first), int(last) + 1))
            for first, last, master, *_ in reply
        ], None

    def _connect(self, place: Place) -> Node:
        settings = {"connection_class": self.driver.connection, **self._settings, "host": place[0], "port": place[1]}
        return Node(self.driver.client(connection_pool=self.driver.pool(**settings)), self._name, place, self.timeouts)


def redirection(error: Exception, asked: Place) -> tuple[str, Place | None]:
    """Return the code of a cluster's error, and the node that it names; an empty code for any other error.

    Args:
        error: The library's error. In some releases it has a class of its own, and its text has no code.
        asked: The node that replied.
    """
    words = str(error).split()
    code = _CODES.get(type(error).__name__, "")
    if not code and words and words[0] in _CODES.values():
        code = words[0]
    if code not in ("MOVED", "ASK"):
        return code, None
    host, _, port = words[-1].rpartition(":")
    return code, (host.strip("[]") or asked[0], int(port))
