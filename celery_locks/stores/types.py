"""What is asked of a store, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from celery_locks import owners
from celery_locks.owners import TaskOwner, Where

#: How many holders a refusal or `Store.holders` names at most.
MOST_HOLDERS = 100
#: Of how many holders that one call takes a lock from by force the reason is kept at most.
MOST_TAKEN = 1_000
#: For how many seconds beyond its deadline it is known why a lease was taken by force.
TAKEN_KNOWN_SECONDS = 3_900.0
#: How the owner token begins that holds the permits of a dispatched ticket, and stands for a parked one in line.
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
    """What an acquisition asks for.

    Attributes:
        name: The lock's full name in the store.
        token: The owner token: random, one for each acquisition.
        owner: Who asks, for people to read.
        ttl: How long the lease lives without renewal, in seconds.
        limit: How many permits the lock has.
        permits: How many of them are asked for.
        adopts: The owner token of a lease that goes over to this claim, if that lease still lives: in one step its
            record goes and this one comes, also before those in line. Of two claims that adopt one lease, one gets it;
            to the other it is as if it had named none.
        replaces: Take the permits from those who hold them, earliest acquisition first, as many as are needed,
            also where others stand in line. The holders are notified as by `Store.force_release`, reason ``replaced``.
        task_id: The task on whose behalf a lease is taken before it runs: `Store.withdraw` finds the lease by it.
        max_waiters: Line up only while fewer wait for the lock than this; 0 for any number. See `Refused.full`.
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
    """Who holds a lock.

    Attributes:
        owner: The name that was given at the acquisition.
        fencing_token: The acquisition's number.
        permits: How many permits are held.
        held_for: Seconds since the acquisition, on the store's clock.
        expires_in: Seconds until the deadline, on the store's clock.
        token: The owner token. Whoever has it can release the lease: never show it.
        limit: How many permits the lock had when it was acquired: each acquisition brings its own limit.
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
        """The name of the task that holds it, ``None`` when it is no task."""
        task = self._task
        return None if task is None else task.name

    @property
    def task_id(self) -> str | None:
        """The id of the task that holds it, ``None`` when it is no task."""
        task = self._task
        return None if task is None else task.id

    @property
    def state(self) -> HolderState:
        """What the holder is doing.

        ``"running"``: a task's run. ``"dispatched"``: a parked task whose turn has come; its message waits in a queue.
        ``"called"``: a task that was called, or retries, and has not started; its message waits.
        ``"lasting"``: the lease lasts until it expires, whether its task has run or not (``until_expired``).
        ``"held"``: no task, or a lock that the body of a run acquired by itself.
        """
        task = self._task
        if self.token.startswith(TICKET):
            return "dispatched"
        return "held" if task is None else _STATES[task.where]

    @property
    def worker(self) -> str | None:
        """The worker on which the task runs, ``None`` when none runs."""
        task = None if self.token.startswith(TICKET) else self._task
        return None if task is None else task.worker

    @property
    def queue(self) -> str | None:
        """The queue in which the message of a dispatched task waits, ``None`` where that is not known."""
        task = self._task
        return None if task is None else task.queue

    @property
    def _task(self) -> TaskOwner | None:
        return owners.read(self.owner)


class Granted(NamedTuple):
    """The lease is had, for ``ttl`` seconds from the moment the store saw the claim.

    Attributes:
        fencing_token: Greater than that of every earlier lease of the lock.
        has_ticket: Whether the lease runs a ticket that the store knows, see `Parking.enter`: the ticket is to be
            settled when the run has ended.
    """

    fencing_token: int
    has_ticket: bool = False


class Refused(NamedTuple):
    """The lease was not to be had.

    Attributes:
        holders: Who holds the lock (at most `MOST_HOLDERS`); empty when it is kept for those in line.
        retry_in: Seconds until another try may succeed without a wake-up (a deadline passes, or the place in line
            has to be confirmed).
        position: How many stand before this token in line; ``None`` when it is not in line. A store may count no
            further than 1,000.
        replaced: The lease that was to be adopted was taken by a newcomer (`Claim.replaces`); known for an hour at
            least.
        full: The token was to line up, and `Claim.max_waiters` others wait already: it has no place in line.
    """

    holders: tuple[Holder, ...]
    retry_in: float
    position: int | None = None
    replaced: bool = False
    full: bool = False


class Value(NamedTuple):
    """A value to be kept with a lock.

    Attributes:
        text: The value as JSON.
        keep: For how many seconds; the lease may end before.
    """

    text: str
    keep: float


class Renewal(NamedTuple):
    """A lease to be prolonged: from now on it lives for ``ttl`` more seconds, and never ends sooner than before.

    Attributes:
        name: The lock's full name in the store.
        token: The owner token.
        ttl: Seconds.
    """

    name: str
    token: str
    ttl: float
