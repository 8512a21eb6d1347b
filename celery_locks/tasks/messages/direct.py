"""Direct dispatch: the worker that releases a key runs the next parked task itself.

A process of the worker offers the ticket to the worker's main process, which gives the message to its own consumer; see
`celery_locks.tasks.worker.direct_dispatch`. No message is published, and the task does not wait behind other messages.
What the main process can't take is published.
"""

from __future__ import annotations

import json
import mmap
import socket
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from celery_locks._runtime.threads import Hub
from celery_locks.stores.parking import Dispatch, Parking
from celery_locks.tasks.messages.publish import publish_dispatched

#: The longest offer, in bytes. Linux takes no longer datagram by default.
MAX_OFFER_BYTES = 212_992

#: What the main process does with an offer: the name of the store, and the dispatch.
Take = Callable[[str, Dispatch], object]


class Offers:
    """The way of dispatched tickets from the processes of a worker to its main process.

    It is made before the pool's processes are forked, which inherit it. The main process opens it while it consumes
    messages. An offer that gets lost is no harm: the sweeper dispatches the ticket again after its deadline.
    """

    def __init__(self) -> None:
        self._reads, self._writes = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reads.setblocking(False)
        self._writes.setblocking(False)
        self._open = mmap.mmap(-1, 1)  # shared by the worker's processes
        self._spawn_take: Callable[[str, Dispatch], None] | None = None

    def fileno(self) -> int:
        """Return the file descriptor that is readable when there is an offer."""
        return self._reads.fileno()

    def open(self) -> None:
        """Let all processes make offers. The main process calls `receive` when there are any."""
        self._open[0] = 1

    def open_to_greenlets(self, hub: Hub, take: Take) -> None:
        """Let greenlets of this process make offers. Each is taken in a greenlet of its own."""
        self._spawn_take = lambda store, dispatch: hub.spawn(lambda: take(store, dispatch))
        self._open[0] = 1

    def close(self) -> None:
        """Refuse further offers. One that is made at this moment may still be received."""
        self._open[0] = 0
        self._spawn_take = None

    def offer(self, store: str, dispatch: Dispatch) -> bool:
        """Offer a dispatched ticket. Return whether the main process will get it.

        Only the first dispatch of a ticket is offered. The broker then limits the deliveries of a message that kills
        its worker each time.
        """
        if not self._open[0] or dispatch.count != 1:
            return False
        if self._spawn_take is not None:
            self._spawn_take(store, dispatch)
            return True
        offer = f"{json.dumps([store, dispatch.name, dispatch.id])}\n{dispatch.message}".encode()
        return len(offer) <= MAX_OFFER_BYTES and self._send(offer)

    def wake(self) -> None:
        """Make the main process' event loop take another turn. Releases of kombu before 5.7 have no other way."""
        self._send(b"")

    def _send(self, data: bytes) -> bool:
        try:
            self._writes.send(data)
        except OSError:  # there are too many, or it is too long
            return False
        return True

    def receive(self) -> tuple[str, Dispatch] | None:
        """Return the next offer: the name of the store, and the dispatch. ``None`` if there is none."""
        try:
            offer = self._reads.recv(MAX_OFFER_BYTES)
        except BlockingIOError:
            return None
        if not offer:  # see `wake`
            return None
        head, _, message = offer.decode().partition("\n")
        store, name, ticket_id = json.loads(head)
        return store, Dispatch(name, ticket_id, message, 1)


_offers: WeakKeyDictionary[Any, Offers] = WeakKeyDictionary()


def make_offers(app: Any) -> None:
    """Make the way for the offers of a worker, before its pool makes processes."""
    if hasattr(socket, "AF_UNIX"):
        _offers[app] = Offers()


def offers_of(app: Any) -> Offers | None:
    """Return the way for the offers of this worker; ``None`` outside a worker, and where there is no way."""
    return _offers.get(app)


def dispatch_tickets(
    app: Any, store: str, parking: Parking, dispatches: Iterable[Dispatch], connection: Any = None
) -> None:
    """Have dispatched tickets run: in this worker if it can take them, otherwise by their messages.

    Args:
        app: The app.
        store: The name of the store.
        parking: The store.
        dispatches: The tickets.
        connection: A connection to the broker; by default one of the app's pool.
    """
    offers = offers_of(app)
    if offers is not None:
        dispatches = [dispatch for dispatch in dispatches if not offers.offer(store, dispatch)]
    publish_dispatched(app, parking, dispatches, connection)
