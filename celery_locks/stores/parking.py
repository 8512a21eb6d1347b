"""Parking: tasks that wait in line in the store, and are dispatched when their turn comes.

A task that finds its key held leaves a *ticket* in line: its message, and a number that keeps its place. A ticket
belongs to one message of a task, and to the broker that the message came from. It lives until that message has run for
good:

``parked``
    In line, among the waiters of `Store.acquire`: one line a lock, first come, first served.
``dispatched``
    Its turn has come. The permits are kept for it until a deadline, and the process that dispatched it publishes its
    message. When the deadline passes before the message arrives, it is parked again at its old place. If it is still
    the first in line, it is dispatched again in the same step.
``running``
    Its message has arrived and has the lease.
``ended``
    Its run ended. Either its message comes again: the worker shut down, died or requeued it. Or its result is being
    stored. The ticket holds nothing. It keeps its number, and a message that arrives runs.
``out``
    It left the line before its turn: it waited too long or was revoked. Its message is published all the same, so that
    a worker ends the task; no permits are kept for it. Like ``dispatched`` it is published again after a deadline. It
    is done when a worker has stored the task's result, and `Parking.finish` confirms it.
``done``
    A small tombstone, kept for `TOMBSTONE` seconds: a late copy of the message is dropped.

**Owed.** A run that does not end for good is followed by another one. Usually the broker delivers the message again.
Where it may not, the run is *owed*: the store itself parks the ticket again. A run is owed from its start if its task
acknowledges late and its copy of the message is not the one that the ticket's last dispatch published: whatever the
broker delivers again then may have been dropped already. Any run is owed as soon as a copy of its message is dropped.
The next run of the ticket is owed, too.

**Brokers.** Services with brokers of their own may share a store. Each step names the broker of the process that makes
it, and dispatches only tickets of that broker. A ticket without a broker, such as one that an older version wrote, is
dispatched by every process. A step that names no broker dispatches only tickets without one. The line stays one for
all: a ticket of another broker that is first in line stays first, and the sweeper of its broker is woken.

Each step is one atomic change of the store, and none is lost when the process that made it dies: what should have
happened by now is *due*, and found by `Parking.sweep`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from celery_locks.stores.types import Claim, Granted, Refused, Value

#: Seconds for which a dispatched ticket's permits are kept until `Parking.published` confirms that its message was
#: published.
FIRST_DISPATCH = 5.0
#: Seconds from an owed run's end to its ticket's next parking, unless the run's result is stored within them.
STORE_GRACE = 30.0
#: Seconds that a parked ticket is kept in the store; each sweep that finds it begins them anew.
RETENTION = 30 * 24 * 3600.0
#: Seconds that a ticket is kept whose run has ended: longer than brokers take to deliver a message again.
TOMBSTONE = 2 * 3600.0
#: How the name of a tried write's lock begins after the prefix. No key of a user gives such a name: see `Locks.name`.
TRIAL = "{=}celery-locks-doctor:"
#: `RETENTION` of a ticket in such a lock, in seconds: after twice this time nothing of it is left.
TRIAL_RETENTION = 5.0

#: Why a ticket left the line before its turn.
OutReason = Literal["timeout", "revoked"]
#: How a run ended; see `Parking.end_run`.
RunEndName = Literal["final", "stored", "rejected", "again"]


@dataclass(frozen=True)
class Push:
    """How a ticket's message is published where the broker's queue is a list in the store itself.

    See `Parking.is_broker`.

    Attributes:
        queue: The list.
        element: What is pushed to the end that is served next: the task has waited longer than what is in the queue.
        within: For how many seconds its permits are kept then, as by `Parking.published`.
    """

    queue: str
    element: str
    within: float


@dataclass(frozen=True)
class Ticket:
    """What a task leaves in line.

    Attributes:
        id: One for each message of a task: its copies have the same one, its retries others.
        message: What is published when its turn comes. Without one (empty) a ticket that is not known is not parked,
            and the answer is `Parked` all the same, with no position.
        task_id: The task; `Parking.withdraw` finds the ticket by it.
        wait: The longest wait in seconds from the first parking; ``None`` for any.
        max_waiters: How many may stand in line at most, this one counted; ``None`` for any.
        push: Lets the store publish the message itself the first time, in the step that dispatches the ticket.
        owner: The owner shown for the ticket in line and for its kept permits; if empty, the claim's owner.
        broker: Identity of the broker that the message belongs to. Only a step made for this broker dispatches the
            ticket; if empty, every step does.
        late: Whether the task acknowledges late: if its run does not end for good, the broker delivers its message
            again.
        count: The dispatch that published this copy of the message, see `Dispatch.count`; 0 for the message that came
            first, and for every other copy.
    """

    id: str
    message: str
    task_id: str
    wait: float | None = None
    max_waiters: int | None = None
    push: Push | None = None
    owner: str = ""
    broker: str = ""
    late: bool = False
    count: int = 0


@dataclass(frozen=True)
class Dispatch:
    """A ticket whose message is to be published now.

    Attributes:
        name: The lock's full name.
        id: The ticket's.
        message: What is to be published.
        count: How often the ticket was dispatched, this time included.
    """

    name: str
    id: str
    message: str
    count: int


@dataclass(frozen=True)
class Parked:
    """The ticket stands in line.

    Attributes:
        refused: Why, and its position.
        dispatches: Tickets of the same broker whose turn has come, found on the way; to be published.
    """

    refused: Refused
    dispatches: tuple[Dispatch, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """This copy of the message is not needed: its task has run (``done``) or runs under a lease that lives.

    Such a run is owed from now on, since this copy will not come again.
    """

    state: Literal["done", "running"]


@dataclass(frozen=True)
class Full:
    """There are as many in line as may be; nothing was changed.

    Attributes:
        waiters: How many wait, or `Ticket.max_waiters` where the store counts no further.
    """

    waiters: int


@dataclass(frozen=True)
class Out:
    """The ticket left the line before its turn. Each copy of its message gets this answer until `Parking.finish`."""

    reason: OutReason
    refused: Refused


class Parking(ABC):
    """What a `Store` does besides when tasks can park in it."""

    @abstractmethod
    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        """Take the permits if it is the turn of a message that has arrived, and park its ticket otherwise.

        It is its turn when enough permits are free (those that are kept for this ticket are) and no one with a lower
        number stands in line. A ticket that is not known comes first come, first served, and becomes known only when
        it has to park. One that was parked, dispatched, ended, or running under a lease that has expired keeps its
        number. Repeated with the same token after it was granted it is granted again.

        The run of a ticket that is known is owed if `Ticket.late` is set, unless the ticket was dispatched and
        `Ticket.count` is that dispatch; and if the ticket's last run was owed.
        """

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        """Park a ticket that is not known, if it can't have the permits now; never take any.

        For a store to override: one that doesn't parks by `enter` alone.

        Args:
            claim: What the ticket's run will ask for.
            ticket: Without a message the store only answers whether it would park; the answer is `Parked` then, with
                no position.

        Returns:
            ``None`` when nothing was changed: the ticket is known, it could run now, or the line is full.
        """
        return None

    def is_broker(self, settings: Mapping[str, Any]) -> bool:
        """Return whether these connection settings (redis-py's) are those of this store's own server and database."""
        return False

    @abstractmethod
    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        """Release a run's lease, settle the ticket that ran under it, and dispatch the tickets whose turn it is then.

        The ticket is settled also when the lease has expired meanwhile, unless another run took the ticket over or it
        was parked again. A token under which no ticket ran releases its lease, and nothing else.

        `Store.release` ends the run as ``"again"``. It leaves dispatching to the sweeper, and wakes it.

        Args:
            name: The lock's full name.
            token: The run's owner token.
            end: How the run ended.

                - ``"final"``, for good: its ticket is done, and copies of its message are dropped from now on.
                - ``"stored"``, for good, but its result is not stored yet, and its message not acknowledged: its ticket
                  is ``ended`` until `finish`. If the process dies before, the message comes again. Where the run is
                  owed, the ticket is parked again at its old place after `STORE_GRACE` seconds without `finish`.
                - ``"rejected"``: its message was rejected, and only a dead-letter queue can bring it again: its ticket
                  is ``ended``, and the store does not park it again.
                - ``"again"``: its message comes again, or the process died. Where the run is owed, the ticket is parked
                  again at its old place, otherwise it is ``ended``.

                A copy of the message that arrives while the ticket is ``ended`` runs. An ended ticket that is not owed
                is kept for `TOMBSTONE` seconds.
            broker: Whose tickets are dispatched.
            value: As that of `Store.release`.

        Returns:
            What `Store.release` returns, and the dispatches, for the caller to publish.
        """

    @abstractmethod
    def published(self, dispatch: Dispatch, within: float) -> None:
        """Confirm that the message of a dispatch was published: keep its permits ``within`` seconds from now.

        Does nothing when the ticket is no longer dispatched.
        """

    @abstractmethod
    def finish(self, name: str, ticket_id: str, token: str = "", *, running: bool = True) -> None:
        """Mark a ticket as done: its message will not run again.

        Args:
            name: The lock's full name.
            ticket_id: The ticket.
            token: If empty, the ticket is done wherever it is: a worker has ended its task without a run. With an owner
                token it is done only if it is ``ended`` or ``running`` under this token: the result of that run is
                stored. It is still running if its lease was adopted. Otherwise nothing changes.
            running: Whether, without a token, a ticket is done that runs under a lease which lives.
        """

    @abstractmethod
    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        """Do what is due for a broker, in at most ``most`` locks whose names begin with ``prefix`` and ``:``.

        Parks dispatched tickets again whose deadline has passed, and puts out those that have waited too long. Parks
        owed tickets again whose run's lease has expired, or whose run ended and did not store its result in time.
        Dispatches those whose turn it is. It leaves tickets of other brokers alone.

        Args:
            prefix: That of the locks.
            broker: Whose tickets, and those without a broker. If empty, only those without a broker.
            most: How many locks at most.

        Returns:
            What to publish: at most 100 for each lock.
        """

    @abstractmethod
    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        """Block until `sweep` may find something due for the broker, or ``timeout`` seconds are over.

        It returns in time also when a ticket is parked meanwhile that is due earlier. It may return early.
        """

    @abstractmethod
    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        """Put out the parked ticket of a task that was revoked, or release the lease taken for it at its call.

        A ticket of another broker is left alone, also when its task has the same id.

        Returns:
            The task's own message, and those whose turn has come by it, to be published. Nothing where nothing was
            found.
        """

    @abstractmethod
    def waiting(self, name: str) -> int:
        """Return how many tickets and waiters stand in line for the lock. Dispatched tickets don't."""


def due_again(count: int, within: float) -> float:
    """Return for how many seconds a ticket's permits are kept after its message was published for the n-th time.

    Twice as long each time: the message may be waiting behind a long queue, and each dispatch adds one to it.
    """
    return min(within * 2.0 ** (count - 1), 3600.0)


def may_dispatch(owned_by: str, broker: str) -> bool:
    """Return whether a step made for a broker may dispatch a ticket.

    Args:
        owned_by: The ticket's broker; empty for none.
        broker: The broker that the step is made for.
    """
    return owned_by in ("", broker)


def is_trial(name: str) -> bool:
    """Return whether a full name is that of a tried write's lock: no sweeper dispatches what is parked there."""
    return name.find("{") == name.find(TRIAL) != -1


def retention(name: str) -> float:
    """Return the seconds that a parked ticket is kept in the lock of this full name."""
    return TRIAL_RETENTION if is_trial(name) else RETENTION


def tickets_of(store: object) -> Parking | None:
    """Return the store, if tasks can park in it."""
    return store if isinstance(store, Parking) else None


__all__: Sequence[str] = (
    "Dispatch",
    "Dropped",
    "Full",
    "Out",
    "Parked",
    "Parking",
    "Ticket",
    "due_again",
    "is_trial",
    "may_dispatch",
    "retention",
    "tickets_of",
)
