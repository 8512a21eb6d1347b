"""Parking: tasks that wait in line in the store, and are dispatched when their turn comes.

A task that finds its key held leaves a *ticket* in line: its message, and a number that keeps its place. A ticket
belongs to one message of a task, and to the broker of that message. It lives until the message has run for good. Its
states:

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

**Owed runs.** When a run does not end for good, another one has to follow. Usually the broker delivers the message
again. If it may not do so, the run is *owed*: the store itself parks the ticket again.

- A run is owed as soon as a copy of its message is dropped.
- A run is owed from its start if its task acknowledges late, and its copy of the message is not that of the last
  dispatch. The copy that the broker would deliver again may have been dropped already.
- If a run is owed, the next run of its ticket is owed, too.

**Brokers.** Services with brokers of their own may share a store. Each step names the broker of the process that makes
it, and dispatches only tickets of that broker. A ticket without a broker, such as one that an older version wrote, is
dispatched by every process. A step that names no broker dispatches only tickets without one. The line stays one for
all: a ticket of another broker that is first in line stays first, and the sweeper of its broker is woken.

Each step is one atomic change of the store. If a process dies before its next step, the ticket becomes *due* after a
while, and `Parking.sweep` takes that step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from celery_locks.stores.types import Claim, Granted, Refused, Value

#: Seconds for which a dispatched ticket's permits are kept until `Parking.published` confirms that its message was
#: published.
FIRST_DISPATCH = 5.0
#: Seconds from an owed run's end to its ticket's next parking, unless the run's result is stored within them.
STORE_GRACE = 30.0
#: Seconds that a parked ticket is kept in the store. Each sweep that finds it starts them again.
RETENTION = 30 * 24 * 3600.0
#: Seconds that a ticket is kept whose run has ended: longer than brokers take to deliver a message again.
TOMBSTONE = 2 * 3600.0
#: The beginning, after the prefix, of the names of the locks of `Store.try_writes`. No key of a user has this name.
TRIAL = "{=}celery-locks-doctor:"
#: The `RETENTION` of tickets in these locks, in seconds. After twice this time no record is left.
TRIAL_RETENTION = 5.0

#: Why a ticket left the line before its turn.
OutReason = Literal["timeout", "revoked"]
#: How a run ended; see `Parking.end_run`.
RunEndName = Literal["final", "stored", "rejected", "again"]


@dataclass(frozen=True)
class Ticket:
    """A task's request to stand in line.

    Attributes:
        id: The id of the task's message. All copies of the message have the same id, and each retry has its own.
        message: The message to publish when its turn comes. If it is empty, an unknown ticket is not parked, and the
            answer is `Parked` all the same, without a position.
        task_id: The task's id, by which `Parking.withdraw` finds the ticket.
        wait: The longest wait in seconds from the first parking; ``None`` for no bound.
        max_waiters: How many may stand in line, including this one; ``None`` for no bound.
        owner: The owner that others see, for the place in line and for the permits that are kept; if empty, the
            owner of the claim.
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
        message: The message to publish.
        count: How often the ticket was dispatched, including this time.
    """

    name: str
    id: str
    message: str
    count: int


@dataclass(frozen=True)
class Parked:
    """The ticket stands in line.

    Attributes:
        refused: The refusal, with its position.
        dispatches: Tickets of the same broker whose turn has come, for the caller to publish.
    """

    refused: Refused
    dispatches: tuple[Dispatch, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """This copy of the message is not needed: its task has run (``done``), or runs under a live lease (``running``).

    The broker will not deliver this copy again, so the run is owed from now on.
    """

    state: Literal["done", "running"]


@dataclass(frozen=True)
class Full:
    """The line is full. Nothing was changed.

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
    """The methods of a `Store` in which tasks can park.

    Attributes:
        can_park: Whether tasks can park. Only in a store of several stores, some of which can't, it is false.
    """

    can_park = True

    @abstractmethod
    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        """Take the permits for a message that has arrived if it is its turn, and park its ticket otherwise.

        Its turn has come when no one with a lower number stands in line, and enough permits are free. The permits that
        are kept for this ticket count as free. An unknown ticket has the last number, and becomes known only when it
        has to park. A ticket that was parked, dispatched or ended keeps its number. So does one whose run's lease has
        expired. A repeated call with the same token is granted again.

        The run of a known ticket is owed if its last run was owed. It is owed also if `Ticket.late` is set, unless
        `Ticket.count` is the last dispatch.
        """

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        """Park an unknown ticket if its task can't run now; never take permits.

        A store that doesn't override this parks tickets by `enter` alone.

        Args:
            claim: The claim of the ticket's run.
            ticket: The ticket. Without a message, the store parks nothing. It returns `Parked` without a position if
                the ticket would have to park.

        Returns:
            ``None`` when nothing was changed: the ticket is known, its task could run now, or the line is full.
        """
        return None

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
        """Handle the due tickets of a broker, in at most ``most`` locks whose names begin with ``prefix`` and ``:``.

        - Dispatched tickets whose deadline has passed are parked again.
        - Tickets that have waited too long are put out.
        - Owed tickets are parked again when the lease of their run has expired, or when their run has ended and did not
          store its result in time.
        - Tickets whose turn has come are dispatched.

        Tickets of other brokers are left alone.

        Args:
            prefix: The prefix of the locks.
            broker: The broker. Tickets without a broker are handled, too. If empty, only these are handled.
            most: How many locks are swept at most.

        Returns:
            The dispatches for the caller to publish, at most 100 for each lock.
        """

    @abstractmethod
    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        """Block until a ticket of the broker may be due, or ``timeout`` seconds have passed.

        It returns in time also when a ticket is parked meanwhile that is due earlier. It may return early.
        """

    @abstractmethod
    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        """Put out the parked ticket of a revoked task, or release the lease that was taken at its call.

        A ticket of another broker is left alone, also when its task has the same id.

        Returns:
            The dispatches for the caller to publish: the task's own message, and the tickets whose turn has come then.
            Empty when neither a ticket nor a lease was found.
        """

    @abstractmethod
    def waiting(self, name: str) -> int:
        """Return how many tickets and waiters stand in line for a lock. Dispatched tickets don't count."""


def due_again(count: int, within: float) -> float:
    """Return for how many seconds a ticket's permits are kept after its message was published for the n-th time.

    The time doubles: the message may wait in a long queue, and each dispatch adds a message to it.
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
    """Return whether a full name is that of a lock of `Store.try_writes`. No sweeper dispatches its tickets."""
    return name.find("{") == name.find(TRIAL) != -1


def retention(name: str) -> float:
    """Return the seconds that a parked ticket is kept in the lock of this full name."""
    return TRIAL_RETENTION if is_trial(name) else RETENTION


def tickets_of(store: object) -> Parking | None:
    """Return the store, if tasks can park in it."""
    return store if isinstance(store, Parking) and store.can_park else None


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
