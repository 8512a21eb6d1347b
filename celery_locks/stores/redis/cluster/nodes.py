"""The masters of a Redis Cluster: who serves which slot, as far as it is known, and commands that go there.

redis-py's own ``RedisCluster`` is not used: its way for commands costs more than the whole of a lock, it has one
timeout for all of them, and its locks would be shared by greenlets and the real thread that renews.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from celery_locks._runtime.clock import monotonic
from celery_locks.stores.redis.calls import Sender
from celery_locks.stores.redis.remedies import KEYS, RIGHTS
from celery_locks.stores.redis.wire.connections import Connections, as_text
from celery_locks.stores.redis.wire.driver import Driver
from celery_locks.stores.redis.wire.protocol import Command, packed
from celery_locks.stores.redis.wire.urls import DEFAULT_TIMEOUTS, Timeouts

T = TypeVar("T")
Place = tuple[str, int]

#: Seconds until a command is tried again whose slot moves just now.
PAUSE = 0.02
#: How many times a command is sent elsewhere without a pause: masters may disagree for a moment.
REDIRECTIONS = 3
_CODES = {
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "CLUSTERDOWN",
}


class Node(Connections):
    """One master."""

    rights = f"{RIGHTS} +cluster|slots +asking"
    keys = KEYS.replace("~", "~{*}")

    def __init__(self, client: Any, name: str, place: Place, timeouts: Timeouts) -> None:
        super().__init__(client, name, timeouts)
        self.place = place


class Asking:
    """A client of the node that a slot moves to, which serves it already to those who say that they were sent."""

    def __init__(self, client: Sender) -> None:
        self._client = client
        self.timeout, self.repeats, self.driver = client.timeout, client.repeats, client.driver

    def call(self, *command: Any) -> Any:
        return self.ask(packed(command))

    def ask(self, command: Command) -> Any:
        answer = self.ask_all([command])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Of the commands only the first may be about the slot."""
        return self._client.ask_all([packed(["ASKING"]), *commands])[1:]


class Nodes:
    """The masters of a cluster.

    Args:
        driver: The library to connect with.
        settings: Its settings of a connection, without host and port.
        places: Where to ask first.
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
        #: Slot → its master: what each command looks into, and nobody waits for.
        self._serving: dict[int, Node] = {}

    def of(self, slot: int, ttl: float | None = None) -> Node:
        """The master of a slot.

        Raises:
            redis.RedisError: No node can be asked, or none serves the slot.
        """
        node = self._serving.get(slot)
        if node is None:
            self.refresh(ttl=ttl)
            node = self._serving.get(slot)
        if node is None:
            raise self.driver.response_error(f"CLUSTERDOWN no node serves slot {slot}")
        return node

    def masters(self) -> tuple[Node, ...]:
        """All masters that are known to serve a slot.

        Raises:
            redis.RedisError: No node can be asked.
        """
        if not self._serving:
            self.refresh()
        return tuple({node.place: node for node in list(self._serving.values())}.values())

    def anyone(self) -> Node:
        """One of them."""
        return self.at(self._first[0])

    def at(self, place: Place) -> Node:
        node = self._nodes.get(place)
        return self._nodes.setdefault(place, self._connect(place)) if node is None else node

    def moved(self, slot: int, place: Place) -> Node:
        """Notes that a slot is served elsewhere."""
        self._serving[slot] = self.at(place)
        return self._serving[slot]

    def refresh(self, broken: Node | None = None, ttl: float | None = None) -> None:
        """Asks who serves which slot; ``broken`` last. Nobody is waited for longer than for a command about ``ttl``.

        Raises:
            redis.RedisError: Nobody answers.
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
        """Close the connections to nodes that serve nothing: with each one that is replaced there would be more."""
        needed = {node.place for node in list(self._serving.values())}.union(self._first)
        for place in set(self._nodes) - needed:
            if node := self._nodes.pop(place, None):
                node.close()

    def close_idle(self) -> None:
        """Close the connections that no request uses: what cut one off, or let it hang, may have met all."""
        for node in list(self._nodes.values()):
            node.close_idle()

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()

    def serve(self, slot: int, call: Callable[[Sender], T], ttl: float | None) -> T:
        """Calls with a client of the node that serves a slot; again where that node says that another one does.

        A slot that is being moved serves no script, since part of a lock's keys is here and part of them there. For as
        long as one command may take it is tried again.

        Raises:
            redis.RedisError: The node failed twice, or the slot was not to be had for so long.
        """
        node, asking, broken, sent_on = self.of(slot, ttl), False, False, 0
        until: float | None = None
        while True:
            client = node.for_ttl(ttl)
            if broken:
                client = client.anew()
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
                sent_on += 1
                if place is None or sent_on > REDIRECTIONS:
                    time.sleep(PAUSE)
                asking = code == "ASK"
                if place is not None:
                    node = self.at(place) if asking else self.moved(slot, place)
                else:
                    node = self.of(slot, ttl)

    def _ask(self, place: Place, ttl: float | None) -> tuple[list[tuple[Place, range]] | None, Exception | None]:
        """Ranges of slots with their masters; or why they are not to be had."""
        try:
            answer = self.at(place).for_ttl(ttl).anew().call("CLUSTER", "SLOTS")
        except self.driver.errors as error:
            return None, error
        # A node that doesn't know its own address tells none: it is the one that was reached.
        return [
            ((as_text(master[0] or place[0]), int(master[1])), range(int(first), int(last) + 1))
            for first, last, master, *_ in answer
        ], None

    def _connect(self, place: Place) -> Node:
        settings = {"connection_class": self.driver.connection, **self._settings, "host": place[0], "port": place[1]}
        return Node(self.driver.client(connection_pool=self.driver.pool(**settings)), self._name, place, self.timeouts)


def redirection(error: Exception, asked: Place) -> tuple[str, Place | None]:
    """What an error of a cluster says to do, and where; an empty text where it is another error.

    Args:
        error: Of the library; whether it has a class of its own, and then no code, differs between releases.
        asked: Who answered.
    """
    words = str(error).split()
    code = _CODES.get(type(error).__name__, "")
    if not code and words and words[0] in _CODES.values():
        code = words[0]
    if code not in ("MOVED", "ASK"):
        return code, None
    host, _, port = words[-1].rpartition(":")
    return code, (host.strip("[]") or asked[0], int(port))
