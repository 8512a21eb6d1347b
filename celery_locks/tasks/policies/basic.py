"""The policies that have names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from celery_locks import _logging
from celery_locks.lease import Lease
from celery_locks.tasks.policies.base import Contention, ContentionPolicy, Skipped
from celery_locks.tasks.policies.park import park

logger = _logging.logger(__name__)


class Retry(ContentionPolicy):
    """The message is published again, with exponential backoff."""

    def contended(self, contention: Contention) -> Any:
        return contention.retry()


class Park(ContentionPolicy):
    """The task waits in line in the store, first come first served."""

    def enter(self, contention: Contention) -> Lease | Skipped:
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
