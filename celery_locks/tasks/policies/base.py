"""The possible outcomes of a run that finds its key held, and the base class of policies."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any, NoReturn

from celery.exceptions import Reject

from celery_locks import _logging
from celery_locks.errors import LockConfigError
from celery_locks.lease import Lease
from celery_locks.tasks.policies.deferral import defer
from celery_locks.tasks.policies.park import park
from celery_locks.tasks.policies.refused_run import RefusedRun

logger = _logging.logger(__name__)


class Contention(RefusedRun):
    """A run that found its key held, with the outcomes from which a policy chooses."""

    def wait(self) -> Lease:
        """Wait in line for the key, at most ``max_wait`` seconds.

        Raises:
            LockTimeout: It was still held by others then.
        """
        return self.lock.acquire(timeout=self.options.max_wait, claim=self.claim)

    def retry(self) -> Lease:
        """Publish the message again, to be run after the backoff's pause. An eager run waits instead.

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
        return self.wait_locally() if self.local else park(self)

    def skip(self) -> Skipped:
        """End the run without its body.

        Returns:
            The result of the run.
        """
        text = f"{self.task.name} skipped: {self.error()}"
        _logging.line(logger, logging.INFO, "skipped", text, key=self.key, owner=self.claim.owner)
        return Skipped(self.key, self.holder_names)

    def reject(self) -> NoReturn:
        """Reject the message, for a dead-letter queue.

        With early acknowledgement no queue gets it, because the message is acknowledged already.

        Raises:
            Reject: Always.
        """
        if not self.task.acks_late:
            logger.warning(
                '%s has on_contention="reject" without acks_late=True: its message was acknowledged already, so no '
                "dead-letter queue gets it",
                self.task.name,
            )
        raise Reject(self.error(), requeue=False)

    def superseded(self) -> Skipped:
        """End the run without its body, because a later call replaced the lease of its call.

        Returns:
            The result of the run.
        """
        text = f"{self.task.name}[{self.task.request.id}] skipped: a later call replaced it"
        _logging.line(logger, logging.INFO, "skipped", text, **self.fields, reason="replaced")
        return Skipped(self.key, self.holder_names)

    def wait_locally(self) -> Lease:
        """Wait in this process up to ``max_wait``. Without ``max_wait`` fail, as the holder may be this process itself.

        Raises:
            LockContended: The task has no ``max_wait``.
            LockError: The run that this eager task is nested in holds the key.
            LockTimeout: The key was still held by others after ``max_wait``.
        """
        self.lock._refuse_nested(self.refused)
        if not self.options.max_wait:
            raise self.error()
        return self.wait()


class Skipped(dict[str, Any]):
    """The result of a run that ended without its body, because others held its key.

    It is a dictionary, so that every result backend returns it unchanged: ``{"skipped": True, "key": …,
    "holders": […]}``.
    """

    def __init__(self, key: str, holders: list[str]) -> None:
        super().__init__(skipped=True, key=key, holders=holders)

    def __reduce__(self) -> tuple[Any, ...]:
        return Skipped, (self["key"], self["holders"])

    @staticmethod
    def of(result: Any) -> Skipped | None:
        """Return a result as a `Skipped`, also after a round trip through JSON; ``None`` if the body did run."""
        if isinstance(result, dict) and result.keys() == {"skipped", "key", "holders"} and result["skipped"] is True:
            return Skipped(result["key"], list(result["holders"]))
        return None


class ContentionPolicy(ABC):
    """The decision about a run that finds its key held. Subclass it for a policy of your own."""

    def enter(self, contention: Contention) -> Lease | Skipped:
        """Acquire the lease for a run, or decide how the run goes on.

        Returns:
            The lease under which the body runs, or the result of the run.

        Raises:
            Exception: Any error; Celery handles it as one of the body.
        """
        answer = contention.attempt()
        if isinstance(answer, Lease):
            return answer
        if answer.replaced:
            return contention.superseded()
        decided = self.contended(contention)
        if isinstance(decided, (Lease, Skipped)):
            return decided
        raise LockConfigError(
            f"{contention.task.name}: the policy {self.name} returned {decided!r}, so its body would never run: return "
            "contention.wait(), .retry(), .skip(), .park() or .reject(), or raise an error"
        )

    @property
    def name(self) -> str:
        """The name of the policy, for error messages."""
        return type(self).__qualname__

    @abstractmethod
    def contended(self, contention: Contention) -> Any:
        """Decide how the run goes on.

        Returns:
            A `Lease` under which the body runs, from ``contention.wait()``; or another outcome:
            ``contention.retry()``, ``.skip()``, ``.park()``, ``.reject()``.

        Raises:
            Exception: Any error; Celery handles it as one of the body.
        """
