"""Parking: tasks that wait in line in the store, and are sent on when their turn comes.

A task that finds its key held leaves a *ticket* in line: its message, and a number that keeps its place. The ticket
lives until the task has run:

``parked``
    In line, among the waiters of `Store.acquire`: one line a lock, first come, first served.
``called``
    Its turn has come: the permits are kept for it until a deadline, and its message is sent on by whoever called it.
    When the deadline passes before the message has come, it is parked again at its old place (and called again when
    its turn is, which is at once if it is still first).
``running``
    Its message has come and has the lease.
``out``
    It left the line before its turn: it waited too long or was revoked. Its message is sent on all the same, so that
    a worker ends the task; no permits are kept for it. Like ``called`` it is sent on again after a deadline.
``done``
    A small tombstone, kept for `TOMBSTONE` seconds: a late copy of the message is dropped.

Each step is one atomic change of the store, and none is lost when the process that made it dies: whatever should have
happened by now is *due*, and found by `Parking.sweep`.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from celery_locks.stores.base import Claim, Granted, Refused, Store

#: Seconds for which a called ticket's permits are kept until `Parking.sent` confirms that its message was sent.
FIRST_CALL = 5.0
#: Seconds that a parked ticket is kept in the store; each sweep that comes by it begins them anew.
RETENTION = 30 * 24 * 3600.0
#: Seconds that it is known that a ticket's task has run: longer than brokers take to deliver a message again.
TOMBSTONE = 2 * 3600.0
#: Seconds for which the lease of a dead run is its reaper's, should that one die before it gives it back.
HEIR_TTL = 4.0
#: How the name of a tried write's lock begins after the prefix. No key of a user gives such a name: see `Locks.name`.
TRIAL = "{=}celery-locks-doctor:"
#: `RETENTION` of a ticket in such a lock, in seconds: after twice this time nothing of it is left.
TRIAL_RETENTION = 5.0

#: Why a ticket left the line before its turn.
OutReason = Literal["timeout", "revoked"]


@dataclass(frozen=True)
class Push:
    """How a ticket's message is sent where the broker's queue is a list in the store itself (see `Parking.is_broker`).

    Attributes:
        queue: The list.
        element: What is pushed to the end that is served next: the task has waited longer than what is in the queue.
        within: For how many seconds its permits are kept then, as by `Parking.sent`.
    """

    queue: str
    element: str
    within: float


@dataclass(frozen=True)
class Ticket:
    """What a task leaves in line.

    Attributes:
        id: One for each message of a task: its copies have the same one, its retries others.
        message: What is sent on when its turn comes; without one (empty) a ticket that is not known is not parked,
            and the answer is `Parked` all the same, with no position.
        task_id: The task; `Parking.withdraw` finds the ticket by it.
        wait: The longest wait in seconds from the first parking; ``None`` for any.
        max_waiters: How many may stand in line at most, this one counted; ``None`` for any.
        push: Lets the store send the message itself the first time, in the step that calls the ticket.
        owner: Who stands in line, and holds the permits that are kept for the ticket; if empty, the claim's owner.
    """

    id: str
    message: str
    task_id: str
    wait: float | None = None
    max_waiters: int | None = None
    push: Push | None = None
    owner: str = ""


@dataclass(frozen=True)
class Call:
    """A ticket whose message is to be sent on now.

    Attributes:
        name: The lock's full name.
        id: The ticket's.
        message: What is to be sent.
        calls: How often it was called, this time counted.
    """

    name: str
    id: str
    message: str
    calls: int


@dataclass(frozen=True)
class Parked:
    """The ticket stands in line.

    Attributes:
        refused: Why, and its position.
        calls: Those whose turn has come, found on the way; to be sent on.
    """

    refused: Refused
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """This copy of the message is not needed: its task has run (``done``) or runs under a lease that lives.

    A running task of which a copy was dropped is called again should its lease end before it is done.
    """

    state: Literal["done", "running"]


@dataclass(frozen=True)
class Full:
    """There are as many in line as may be; nothing was changed."""

    waiters: int


@dataclass(frozen=True)
class Out:
    """The ticket left the line before its turn. It is done with this answer."""

    reason: OutReason
    refused: Refused


class Parking(ABC):
    """What a `Store` does besides when tasks can park in it."""

    @abstractmethod
    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        """A message has come: takes the permits if it is its turn, else parks.

        It is its turn when enough permits are free (those that are kept for this ticket are) and nobody with a lower
        number stands in line. A ticket that is not known comes first come, first served, and becomes known only when
        it has to park. One that was parked, called, or running under a lease that has ended keeps its number.
        Repeated with the same token after it was granted it is granted again.
        """

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        """Parks a ticket that is not known, if it can't have the permits now; never takes any.

        For a store to override: one that doesn't parks by `enter` alone.

        Args:
            claim: What the ticket's run will ask for.
            ticket: Without a message it is only asked whether it would park; the answer is `Parked` then, with no
                position.

        Returns:
            ``None`` when nothing was changed: the ticket is known, it could run now, or the line is full.
        """
        return None

    def is_broker(self, settings: Mapping[str, Any]) -> bool:
        """Whether these connection settings (redis-py's) are those of this store's own server and database."""
        return False

    @abstractmethod
    def hand_on(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        """`Store.release`, and calls those tickets whose turn it is then, for the caller to send on.

        (`Store.release` ends the token's ticket too, but leaves calling to the sweeper, and wakes it.)

        Returns:
            What `Store.release` returns, and the calls.
        """

    def died(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        """`hand_on` for a run that died: its ticket is not done.

        A copy of its message that comes later takes the ticket over, as after the lease's deadline. Where one came
        before, and was dropped since the task ran, the ticket is parked again at its old place.

        This one, for stores that have none of their own, leaves such a ticket in peace until that deadline: it takes
        the lease over and gives it back. With a limit of 0 that is had by adoption and in no other way.
        """
        heir = Claim(name, secrets.token_hex(16), "a reaper", HEIR_TTL, limit=0, adopts=token)
        if not isinstance(cast(Store, self).acquire(heir), Granted):
            return False, ()
        return True, self.hand_on(name, heir.token)[1]

    @abstractmethod
    def sent(self, call: Call, within: float) -> None:
        """Confirms that the message of a call was sent on: its permits are kept ``within`` seconds from now.

        Does nothing when the ticket is no longer called.
        """

    @abstractmethod
    def settle(self, name: str, ticket_id: str) -> None:
        """The ticket's task has ended without a run (revoked, expired): its ticket is done, wherever it is."""

    @abstractmethod
    def sweep(self, prefix: str, most: int = 100) -> tuple[Call, ...]:
        """Does what is due, in at most so many locks whose names begin with ``prefix`` and ``:``.

        Parks called tickets again whose deadline has passed, puts out those that have waited too long, parks running
        ones again whose lease has ended and of which a copy was dropped, and calls whose turn it is.

        Returns:
            Whom to send on: `most` for each lock at most.
        """

    @abstractmethod
    def await_due(self, prefix: str, timeout: float) -> None:
        """Blocks until `sweep` may find something due, or ``timeout`` seconds are over. May return early."""

    @abstractmethod
    def withdraw(self, prefix: str, task_id: str) -> tuple[Call, ...]:
        """A task was revoked: puts its parked ticket out, or frees the lease taken for it at its call.

        Returns:
            Its own message, and those whose turn has come by it, to be sent on. Nothing where nothing was found.
        """

    @abstractmethod
    def waiting(self, name: str) -> int:
        """How many tickets and waiters stand in line for the lock (those that are called don't)."""


def due_again(calls: int, within: float) -> float:
    """For how long, in seconds, a ticket's permits are kept after its message was sent for the ``calls``-th time.

    Twice as long each time: the message may be waiting behind a long queue, and each call adds one to it.
    """
    return min(within * 2.0 ** (calls - 1), 3600.0)


def is_trial(name: str) -> bool:
    """Whether a full name is that of a tried write's lock: no sweeper dispatches what is parked there."""
    return name.find("{") == name.find(TRIAL) != -1


def retention(name: str) -> float:
    """Seconds that a parked ticket is kept in the lock of this full name."""
    return TRIAL_RETENTION if is_trial(name) else RETENTION


def tickets_of(store: object) -> Parking | None:
    """The store, if tasks can park in it."""
    return store if isinstance(store, Parking) else None


__all__: Sequence[str] = (
    "Call",
    "Dropped",
    "Full",
    "Out",
    "Parked",
    "Parking",
    "Ticket",
    "due_again",
    "is_trial",
    "retention",
    "tickets_of",
)
