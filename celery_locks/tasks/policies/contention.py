"""What happens to a run that finds its key held: what it knows, and the policies that decide."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Reject

from celery_locks import _logging
from celery_locks.errors import LockConfigError, LockContended, StoreUnavailable
from celery_locks.lease import Lease
from celery_locks.lock import Lock, holder_names, who_holds
from celery_locks.settings import LockOptions
from celery_locks.stores.base import Claim, Refused, Renewal
from celery_locks.tasks.messages.header import fields_of
from celery_locks.tasks.policies.deferral import counter_of, defer

if TYPE_CHECKING:
    from celery_locks.tasks.task import LockedTask

logger = _logging.logger(__name__)


@dataclass
class Contention:
    """A run that found its key held.

    Attributes:
        task: The task.
        lock: The lock that it needs.
        claim: What it asked for.
        options: The task's lock options.
        args: The arguments of the call.
        kwargs: Its keyword arguments.
        refused: The store's answer.
        ticket: The id of the ticket by which the lease was acquired, or which left the line; empty for none.
        out: Whether the ticket left the line: the run ends the task, and then the ticket.
    """

    task: LockedTask
    lock: Lock
    claim: Claim
    options: LockOptions
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    refused: Refused = field(default_factory=lambda: Refused((), 0.0))
    ticket: str = ""
    out: bool = False

    @property
    def key(self) -> str:
        """The key."""
        return self.lock.key

    @property
    def holder_names(self) -> list[str]:
        """Who holds it."""
        return holder_names(self.refused)

    @property
    def deferrals(self) -> int:
        """How often the message was deferred already."""
        return counter_of(self.task.request)[0]

    @property
    def waited(self) -> float:
        """The seconds that the message waited while it was deferred."""
        return counter_of(self.task.request)[1]

    @property
    def local(self) -> bool:
        """Whether there is no message that could be published again: an eager run, or an item of a map."""
        return is_local(self.task.request)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a line in the log."""
        return {"key": self.key, "owner": self.claim.owner, "holders": self.holder_names}

    def error(self) -> LockContended:
        """Return the error that names the holders."""
        names = self.holder_names
        return LockContended(f"{self.key!r} is not available: {who_holds(names)}", self.key, names)

    def keep_call(self, pause: float) -> None:
        """Renew the lease of the task's call, for while its message waits ``pause`` seconds more."""
        ours = fields_of(self.task.request)
        if "token" in ours and "lasting" not in ours:
            with suppress(StoreUnavailable):
                self.lock._store.renew([Renewal(ours["lock"], ours["token"], self.options.ttl + pause)])

    def attempt(self) -> Lease | Refused:
        """Ask for the lease once."""
        answer = self.lock._attempt(self.claim)
        if isinstance(answer, Refused):
            self.refused = answer
        return answer

    # The outcomes that a policy may choose.

    def wait(self) -> Lease:
        """Wait in line for the key, at most ``max_wait`` seconds.

        Raises:
            LockTimeout: It was still held by others then.
        """
        return self.lock.acquire(timeout=self.options.max_wait, claim=self.claim)

    def retry(self) -> Lease:
        """Publish the message again, to come after the backoff's pause. An eager run waits instead.

        Raises:
            Ignore: It was published; the run ends without its body.
            LockTimeout: It has waited for ``max_wait``.
        """
        if self.local:
            return self.wait_locally()
        return defer(self, self.error())

    def park(self) -> Lease:
        """Put the task in line in the store. An eager run waits instead.

        Returns:
            The lease, if the key became free meanwhile.

        Raises:
            Ignore: It is parked; the run ends without its body.
            LockTimeout: It has waited for ``max_wait``.
            LockQueueFull: ``max_waiters`` are in line already.
            LockConfigError: No task can park in this store.
        """
        from celery_locks.tasks.policies.park import park

        return self.wait_locally() if self.local else park(self)

    def skip(self) -> Skipped:
        """End the run without its body.

        Returns:
            The result of the run.
        """
        said = f"{self.task.name} skipped: {self.error()}"
        _logging.line(logger, logging.INFO, "skipped", said, key=self.key, owner=self.claim.owner)
        return Skipped(self.key, self.holder_names)

    def reject(self) -> NoReturn:
        """Reject the message, for a dead-letter queue.

        With early acknowledgement the message is acknowledged already, so that no queue gets it.

        Raises:
            Reject: In any case.
        """
        if not self.task.acks_late:
            logger.warning(
                '%s has on_contention="reject" without acks_late=True: its message was acknowledged already, so no '
                "dead-letter queue gets it",
                self.task.name,
            )
        raise Reject(self.error(), requeue=False)

    def superseded(self) -> Skipped:
        """End the run without its body, since a later call replaced the lease of its call.

        Returns:
            The result of the run.
        """
        said = f"{self.task.name}[{self.task.request.id}] skipped: a later call replaced it"
        _logging.line(logger, logging.INFO, "skipped", said, **self.fields, reason="replaced")
        return Skipped(self.key, self.holder_names)

    def wait_locally(self) -> Lease:
        """Wait up to ``max_wait``, and not at all without one: in this process there may be no one to release.

        Raises:
            LockContended: The task has no ``max_wait``.
            LockError: The run that this eager task is nested in holds the key.
            LockTimeout: The key was still held by others after ``max_wait``.
        """
        self.lock._refuse_nested(self.refused)
        if not self.options.max_wait:
            raise self.error()
        return self.wait()


def is_local(request: Any) -> bool:
    """Return whether a request has no message that could be published again: an eager run, or an item of a map."""
    return bool(request.is_eager or request.called_directly)


class Skipped(dict[str, Any]):
    """The result of a run that was left out because others held its key.

    A dictionary, so that it comes back the same from every result backend: ``{"skipped": True, "key": …,
    "holders": […]}``.
    """

    def __init__(self, key: str, holders: list[str]) -> None:
        super().__init__(skipped=True, key=key, holders=holders)

    def __reduce__(self) -> tuple[Any, ...]:
        return Skipped, (self["key"], self["holders"])

    @staticmethod
    def of(result: Any) -> Skipped | None:
        """The `Skipped` that a result is, also after a round trip through JSON; ``None`` when the body did run."""
        if isinstance(result, dict) and result.keys() == {"skipped", "key", "holders"} and result["skipped"] is True:
            return Skipped(result["key"], list(result["holders"]))
        return None


class ContentionPolicy(ABC):
    """What happens to a run that finds its key held. Subclass it for a policy of your own."""

    def enter(self, contention: Contention) -> Lease | Skipped:
        """Acquire the lease for a run, or decide what becomes of the run.

        Returns:
            The lease under which the body runs, or the result of the run.

        Raises:
            Exception: As if the body had raised it.
        """
        answer = contention.attempt()
        if isinstance(answer, Lease):
            return answer
        return contention.superseded() if answer.replaced else self.decide(contention)

    def decide(self, contention: Contention) -> Lease | Skipped:
        """Return what `contended` decides, checked.

        Raises:
            LockConfigError: It is no lease and no outcome.
        """
        decided = self.contended(contention)
        if isinstance(decided, (Lease, Skipped)):
            return decided
        raise LockConfigError(
            f"{contention.task.name}: the policy {self.name} returned {decided!r}, so its body would never run: return "
            "contention.wait(), .retry(), .skip(), .park() or .reject(), or raise an error"
        )

    @property
    def name(self) -> str:
        """The name of the policy, for an error."""
        return type(self).__qualname__

    @abstractmethod
    def contended(self, contention: Contention) -> Any:
        """Decide.

        Returns:
            A `Lease` (of ``contention.wait()``) under which the body runs, or an outcome of the contention:
            ``contention.retry()``, ``.skip()``, ``.park()``, ``.reject()``.

        Raises:
            Exception: As if the body had raised it.
        """


class Retry(ContentionPolicy):
    """The message is published again, with exponential backoff."""

    def contended(self, contention: Contention) -> Any:
        return contention.retry()


class Park(ContentionPolicy):
    """The task waits in line in the store, first come first served."""

    def enter(self, contention: Contention) -> Lease | Skipped:
        from celery_locks.tasks.policies.park import park

        if contention.local or contention.claim.adopts:
            return super().enter(contention)
        return park(contention)

    def contended(self, contention: Contention) -> Any:
        return contention.park()


class Wait(ContentionPolicy):
    """The worker slot waits, woken by the release, up to ``max_wait``."""

    def contended(self, contention: Contention) -> Any:
        return contention.wait_locally() if contention.local else contention.wait()


class Skip(ContentionPolicy):
    """The run ends without its body; its result is a `Skipped`."""

    def contended(self, contention: Contention) -> Any:
        return contention.skip()


class RejectMessage(ContentionPolicy):
    """The message is rejected, for a dead-letter queue. With late acknowledgement only."""

    def contended(self, contention: Contention) -> Any:
        return contention.wait_locally() if contention.local else contention.reject()


class Raise(ContentionPolicy):
    """The run fails with `LockContended`."""

    def contended(self, contention: Contention) -> Any:
        raise contention.error()


class Replace(ContentionPolicy):
    """The run takes the key from its holders; their leases are lost, reason ``replaced``."""

    def contended(self, contention: Contention) -> Any:
        contention.lock._refuse_nested(contention.refused)
        answer = contention.lock._attempt(replace(contention.claim, replaces=True))
        if isinstance(answer, Lease):
            return answer
        contention.refused = answer
        raise contention.error()
