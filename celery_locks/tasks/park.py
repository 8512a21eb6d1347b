"""``on_contention="park"``: a task whose key is held waits in line in the store, and is sent on when its turn comes.

See `celery_locks.stores.parking` for what becomes of a ticket. Here: what the run does that a message brought.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Ignore
from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_locks import log, owners
from celery_locks.errors import LockConfigError, LockQueueFull
from celery_locks.lease import Lease
from celery_locks.settings import LockOptions
from celery_locks.stores.parking import Dropped, Full, Out, Parked, Parking, Push, Ticket, tickets_of
from celery_locks.tasks import events
from celery_locks.tasks.contention import Contention, ContentionPolicy, wait_locally
from celery_locks.tasks.header import ours_of
from celery_locks.tasks.message import HEADER, pack, pushed
from celery_locks.tasks.queues import queue_of
from celery_locks.tasks.rabbitmq import later_by
from celery_locks.tasks.resend import later, longest_pause, timed_out
from celery_locks.tasks.sending import call_ttl, send_on

if TYPE_CHECKING:
    from celery_locks.lock import Lock

logger = log.logger(__name__)

#: The result state of a parked task.
WAITING = "WAITING"
#: Seconds after a message has expired that it is sent on, so that the worker finds that it has.
LATE = 0.1
#: Seconds after which a safety copy comes, where the broker keeps to such a countdown.
SAFETY_COPY = 600.0


class Park(ContentionPolicy):
    """The task waits in line in the store, first come first served. Where there is no message it waits ``max_wait``."""

    def enter(self, contention: Contention) -> Lease:
        """Takes the lease if it is this message's turn, else parks it.

        Raises:
            Ignore: It is parked, or this copy of the message is not needed.
            LockTimeout: It has waited for as long as it may.
            LockQueueFull: There are as many in line as may be.
        """
        lock, request = contention.lock, contention.task.request
        parking = parking_of(lock)
        wait = longest_wait(contention.task.app, contention.options, request.expires)
        ticket = Ticket(ticket_id(request.id, request.retries), "", request.id, wait, contention.options.max_waiters)
        answer = lock.enter(parking, contention.claim, ticket)
        if isinstance(answer, Parked):
            # Told before it parks: afterwards another worker may have run it already, and told so.
            _tell_waiting(contention, parking)
            answer = lock.enter(parking, contention.claim, _with_message(contention, parking, ticket))
        if isinstance(answer, Lease):
            events.running(contention.task)
            return answer
        return self._not_now(contention, parking, ticket, answer)

    def contended(self, contention: Contention) -> Any:
        return wait_locally(contention)

    def _not_now(
        self, contention: Contention, parking: Parking, ticket: Ticket, answer: Parked | Dropped | Full | Out
    ) -> NoReturn:
        task, key = contention.task, contention.key
        if isinstance(answer, Parked):
            contention.refused = answer.refused
            send_on(task.app, parking, answer.calls)
            if contention.options.park_safety_copy:
                _send_safety_copy(contention, ticket)
            raise Ignore(f"parked: {contention.error()}")
        if isinstance(answer, Full):
            raise LockQueueFull(f"{answer.waiters} wait for {key!r} already: max_waiters allows no more", key)
        if isinstance(answer, Dropped):
            said = f"dropped a copy of {task.name}[{task.request.id}]: it is {answer.state}"
            log.line(logger, logging.INFO, "dropped", said, **contention.fields, reason=answer.state)
            raise Ignore(f"a copy of a task that is {answer.state}")
        contention.refused = answer.refused
        if answer.reason == "timeout":
            raise timed_out(contention, contention.error())
        stored = not (task.ignore_result or task.request.ignore_result)
        task.backend.mark_as_revoked(task.request.id, "revoked", request=task.request, store_result=stored)
        raise Ignore("revoked while it was parked")


def parks(policy: Any, contention: Contention) -> bool:
    """Whether a run under this policy enters the line by its message."""
    return isinstance(policy, Park) and not contention.local


def parking_of(lock: Lock) -> Parking:
    """The store of a lock, where tasks can park.

    Raises:
        LockConfigError: They can't in this one.
    """
    parking = tickets_of(lock.store)
    if parking is None:
        raise LockConfigError(
            f'no task can park in a {type(lock.store).__name__}: set on_contention="retry", or locks_url to a store '
            "of redis://, postgresql://, mysql:// or sqlite:///"
        )
    return parking


def ticket_id(task_id: str, retries: int | None) -> str:
    """One for each message of a task: copies share it, a retry of the task's own has another."""
    return f"{task_id}:{retries or 0}"


def header_of(key: str, ticket: Ticket, since: float) -> dict[str, Any]:
    """What our own header says of a message that is sent on from the line, in which it is since that moment."""
    return {"id": ticket.task_id, "ticket": ticket.id, "key": key, "since": since}


def _since(contention: Contention) -> float:
    return float(ours_of(contention.task.request).get("since") or time.time())


def longest_wait(app: Any, options: LockOptions, expires: Any) -> float | None:
    """Until ``max_wait`` is over or the message expires: then it is sent on, and the worker that gets it ends it."""
    waits = [options.max_wait]
    if expires:
        moment = maybe_make_aware(maybe_iso8601(expires), app.timezone)
        waits.append(max(0.0, (moment - app.now()).total_seconds()) + LATE)
    return min((wait for wait in waits if wait is not None), default=None)


def _with_message(contention: Contention, parking: Parking, ticket: Ticket) -> Ticket:
    task, request = contention.task, contention.task.request
    message = pack(task, header_of(contention.key, ticket, _since(contention)))
    owner = owners.parked(task.name, request.id, queue_of(task.app, request.delivery_info))
    return replace(ticket, message=message, push=push_of(task.app, message, parking), owner=owner)


def push_of(app: Any, message: str, parking: Parking) -> Push | None:
    """How the store itself can send the message on, if it can."""
    try:
        with app.producer_or_acquire() as producer:
            return pushed(app, producer, message, parking, call_ttl(app.conf))
    except app.connection_for_write().connection_errors as error:  # it can park all the same
        logger.warning("the broker is away (%s): a task parks without it", error)
        return None


def _tell_waiting(contention: Contention, parking: Parking) -> None:
    task = contention.task
    stored, told = not (task.ignore_result or task.request.ignore_result), events.enabled(task.app)
    if not (stored or told):
        return
    meta = {"key": contention.key, "position": parking.waiting(contention.claim.name)}
    if stored:
        task.update_state(state=WAITING, meta=meta)
    if told:
        events.waiting(task, meta)


def _send_safety_copy(contention: Contention, ticket: Ticket) -> None:
    """Leaves a late message at the broker too, for the case that the store forgets the ticket.

    The message that brought this run may be such a copy; those that were sent on from the line leave no other one.
    """
    task = contention.task
    ours = (task.request.headers or {}).get(HEADER) or {}
    if "ticket" in ours and not ours.get("copy"):
        return
    asked = contention.options.park_safety_copy
    late = min(SAFETY_COPY if asked is True else asked, longest_pause(task.app.conf) or float("inf"))
    late, route = later_by(task.app, task.request.delivery_info, late)
    later(task, late, route, **header_of(contention.key, ticket, _since(contention)), copy=True).apply_async()
