"""What happens to a run that finds its key held."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject

from celery_locks import log
from celery_locks.errors import LockContended, StoreUnavailable
from celery_locks.lease import Lease
from celery_locks.lock import Lock, holder_names, who_holds
from celery_locks.settings import LockOptions
from celery_locks.stores.base import Claim, Refused, Renewal
from celery_locks.tasks.header import ours_of
from celery_locks.tasks.resend import counter_of, send_again

if TYPE_CHECKING:
    from celery_locks.tasks.task import LockedTask

logger = log.logger(__name__)


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
    """

    task: LockedTask
    lock: Lock
    claim: Claim
    options: LockOptions
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    refused: Refused = field(default_factory=lambda: Refused((), 0.0))

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
        """How often the message was sent again already."""
        return counter_of(self.task.request)[0]

    @property
    def waited(self) -> float:
        """The seconds that the message waited so."""
        return counter_of(self.task.request)[1]

    @property
    def local(self) -> bool:
        """Whether there is no message that could be sent again: an eager run, or an item of a map."""
        return bool(self.task.request.is_eager or self.task.request.called_directly)

    @property
    def fields(self) -> dict[str, Any]:
        """What a line of the log says of it."""
        return {"key": self.key, "owner": self.claim.owner, "holders": self.holder_names}

    def error(self) -> LockContended:
        """The error that says so."""
        names = self.holder_names
        return LockContended(f"{self.key!r} is not to be had now: {who_holds(names)}", self.key, names)

    def keep_call(self, pause: float) -> None:
        """Has the lease of the task's call live on while its message waits so many seconds more."""
        ours = ours_of(self.task.request)
        if "token" in ours and "lasting" not in ours:
            with suppress(StoreUnavailable):
                self.lock.store.renew([Renewal(ours["lock"], ours["token"], self.options.ttl + pause)])

    def wait(self) -> Lease:
        """Waits in line for the key, at most ``max_wait`` seconds.

        Raises:
            LockTimeout: It was still held by others then.
        """
        return self.lock.acquire(self.options.max_wait, self.claim)


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

    @abstractmethod
    def contended(self, contention: Contention) -> Any:
        """Decides.

        Returns:
            A `Lease` (of ``contention.wait()``) to run the body under it, or else the result of the run.

        Raises:
            Exception: As if the body had raised it.
        """


class Retry(ContentionPolicy):
    """The message is sent again, with exponential backoff. Where there is no message it waits up to ``max_wait``."""

    def contended(self, contention: Contention) -> Any:
        if contention.local:
            return wait_locally(contention)
        return send_again(contention, contention.error())


class Wait(ContentionPolicy):
    """The worker slot waits, woken by the release, up to ``max_wait``."""

    def contended(self, contention: Contention) -> Any:
        return wait_locally(contention) if contention.local else contention.wait()


class Skip(ContentionPolicy):
    """The run ends without running the body; its result is a `Skipped`."""

    def contended(self, contention: Contention) -> Any:
        said = f"{contention.task.name} skipped: {contention.error()}"
        log.line(logger, logging.INFO, "skipped", said, **contention.fields)
        return Skipped(contention.key, contention.holder_names)


class RejectMessage(ContentionPolicy):
    """The message is rejected, for a dead-letter queue. With late acknowledgement only: else it is gone already."""

    def contended(self, contention: Contention) -> Any:
        if contention.local:
            return wait_locally(contention)
        if not contention.task.acks_late:
            logger.warning(
                '%s has on_contention="reject" without acks_late=True: its message was acknowledged already, so no '
                "dead-letter queue gets it",
                contention.task.name,
            )
        raise Reject(contention.error(), requeue=False)


class Raise(ContentionPolicy):
    """The run fails with `LockContended`."""

    def contended(self, contention: Contention) -> Any:
        raise contention.error()


class Replace(ContentionPolicy):
    """The run takes the key from those who hold it; their leases are lost, reason ``replaced``."""

    def contended(self, contention: Contention) -> Any:
        answer = contention.lock.attempt(replace(contention.claim, replaces=True))
        if isinstance(answer, Lease):
            return answer
        contention.refused = answer
        raise contention.error()


def wait_locally(contention: Contention) -> Lease:
    """Waits up to ``max_wait``, and not at all without one: in this process nobody else may be there to release."""
    if not contention.options.max_wait:
        raise contention.error()
    return contention.wait()
