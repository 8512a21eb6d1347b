"""The requests and answers of stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from celery_locks import owners
from celery_locks.owners import TaskOwner, Where

#: How many holders a refusal, `Store.holders` and `Store.info` name at most.
MOST_HOLDERS = 100
#: How many holders of one forced release find its reason in the store at most.
MOST_TAKEN = 1_000
#: How many seconds beyond its deadline the store keeps the reason for which a lease was taken by force.
TAKEN_KNOWN_SECONDS = 3_900.0
#: The beginning of the owner token by which a parked ticket stands in line, and by which a dispatched one has permits.
TICKET = "ticket:"

#: What a holder is doing; see `Holder.state`.
HolderState = Literal["running", "dispatched", "called", "lasting", "held"]
_STATES: dict[Where, HolderState] = {
    "on": "running",
    "in its body on": "held",
    "called by": "called",
    "via queue": "dispatched",
    "until expiry from": "lasting",
}


# Not frozen: making one would cost four times as much.
@dataclass(slots=True)
class Claim:
    """A request for a lease.

    Attributes:
        name: The lock's full name in the store.
        token: The owner token: random, a new one for each acquisition.
        owner: The holder's name, for people to read.
        ttl: How long the lease lives without renewal, in seconds.
        limit: How many permits the lock has.
        permits: How many of them are requested.
        adopts: The owner token of a live lease that this claim takes over, in one step and before all in line. When
            two claims adopt the same lease, one gets it. The other is treated as if it had named no lease.
        replaces: Whether to take as many permits as needed from the holders, earliest acquisition first and before all
            in line. The holders are notified as by `Store.force_release`, with the reason ``replaced``.
        task_id: The task for which the lease is taken at its call. `Parking.withdraw` finds the lease by it.
        max_waiters: Line up only while fewer than this wait for the lock; 0 for no bound. See `Refused.full`.
        patience: For how many seconds the caller waits for the answer; ``None`` for as long as the store takes. The
            store raises `StoreUnavailable` soon after that.
    """

    name: str
    token: str
    owner: str
    ttl: float
    limit: int = 1
    permits: int = 1
    adopts: str = ""
    replaces: bool = False
    task_id: str = ""
    max_waiters: int = 0
    patience: float | None = None


@dataclass(frozen=True)
class Holder:
    """A lease, as others see it.

    Attributes:
        owner: The holder's name: `Claim.owner`.
        fencing_token: The number of the acquisition.
        permits: How many permits are held.
        held_for: Seconds since the acquisition, on the store's clock.
        expires_in: Seconds until the deadline, on the store's clock.
        token: The owner token. A process that knows it can release the lease: never show it.
        limit: How many permits the lock had at this acquisition. Each acquisition brings a limit of its own.
    """

    owner: str
    fencing_token: int
    permits: int
    held_for: float
    expires_in: float
    token: str = field(repr=False)
    limit: int = 1

    @property
    def task_name(self) -> str | None:
        """The name of the task that holds the lease, ``None`` when the holder is no task."""
        task = self._task
        return None if task is None else task.name

    @property
    def task_id(self) -> str | None:
        """The id of the task that holds the lease, ``None`` when the holder is no task."""
        task = self._task
        return None if task is None else task.id

    @property
    def state(self) -> HolderState:
        """The state of the holder.

        - ``"running"``: a task runs.
        - ``"dispatched"``: the turn of a parked task has come, and its message waits in a queue.
        - ``"called"``: a task was called or retries, and its message waits in a queue.
        - ``"lasting"``: the lease lasts until it expires, whether its task has run or not (``until_expired``).
        - ``"held"``: the holder is no task, or the body of a run acquired the lock by itself.
        """
        task = self._task
        if self.token.startswith(TICKET):
            return "dispatched"
        return "held" if task is None else _STATES[task.where]

    @property
    def worker(self) -> str | None:
        """The worker on which the task runs, ``None`` when no task runs."""
        task = None if self.token.startswith(TICKET) else self._task
        return None if task is None else task.worker

    @property
    def queue(self) -> str | None:
        """The queue in which the message of a dispatched task waits, ``None`` if unknown."""
        task = self._task
        return None if task is None else task.queue

    @property
    def _task(self) -> TaskOwner | None:
        return owners.read(self.owner)


class Granted(NamedTuple):
    """The lease is granted, for ``ttl`` seconds from the moment at which the store got the claim.

    Attributes:
        fencing_token: A number greater than that of every earlier lease of the lock.
        has_ticket: Whether the run under this lease has a ticket in the store; see `Parking.enter`. If so, the caller
            ends the run by `Parking.end_run`.
    """

    fencing_token: int
    has_ticket: bool = False


class Refused(NamedTuple):
    """The lease is refused.

    Attributes:
        holders: The holders, at most `MOST_HOLDERS`; empty when the free permits are kept for the waiters in line.
        retry_in: Seconds after which another try may succeed without a wake-up: a deadline passes until then, or the
            place in line has to be confirmed.
        position: How many stand before this token in line, ``None`` when it has no place. A store may count no further
            than 1,000.
        replaced: Whether a newcomer took the lease that this claim adopts (see `Claim.replaces`). Known for at least
            an hour.
        full: Whether the token got no place in line, because `Claim.max_waiters` others wait already.
    """

    holders: tuple[Holder, ...]
    retry_in: float
    position: int | None = None
    replaced: bool = False
    full: bool = False


class Value(NamedTuple):
    """A value to keep with a lock.

    Attributes:
        text: The value as JSON.
        keep: For how many seconds it is kept, also after the lease has ended.
    """

    text: str
    keep: float


class Renewal(NamedTuple):
    """A request to renew a lease: it lives for ``ttl`` seconds from now on, and never ends sooner than before.

    Attributes:
        name: The lock's full name in the store.
        token: The owner token.
        ttl: How long it lives without another renewal, in seconds.
    """

    name: str
    token: str
    ttl: float
