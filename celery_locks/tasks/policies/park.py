"""Parking: a task whose key is held waits in line in the store, and is dispatched when its turn comes.

`celery_locks.stores.parking` describes the life of a ticket. This module is about the run of a message.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from celery import states
from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_locks import _logging, owners
from celery_locks._runtime.clock import wall_time
from celery_locks.errors import LockConfigError, LockQueueFull
from celery_locks.lease import Lease
from celery_locks.lock import Lock
from celery_locks.settings import LockOptions
from celery_locks.stores.parking import Dropped, Full, Out, Parked, Parking, Ticket, tickets_of
from celery_locks.tasks import events
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.direct import dispatch_tickets
from celery_locks.tasks.messages.header import fields_in, fields_of, new_publication, store_field
from celery_locks.tasks.messages.pack import pack
from celery_locks.tasks.messages.queues import queue_of
from celery_locks.tasks.policies.deferral import Deferred, longest_pause, publish_later, timed_out
from celery_locks.tasks.policies.refused_run import RefusedRun

logger = _logging.logger(__name__)

#: The result state of a parked task.
WAITING = "WAITING"
#: Seconds between the expiry of a message and its dispatch, so that the worker finds it expired.
EXPIRY_MARGIN_SECONDS = 0.1
#: Seconds until a safety copy is delivered, unless the broker's longest countdown is shorter.
SAFETY_COPY_SECONDS = 600.0


def park(contention: RefusedRun) -> Lease:
    """Acquire the lease if it is the turn of this run's message, otherwise park it.

    Raises:
        Ignore: It is parked, or this copy of the message is not needed.
        LockTimeout: It has waited for as long as it may.
        LockQueueFull: There are ``max_waiters`` in line already.
        LockConfigError: No task can park in this store.
    """
    task, lock, request = contention.task, contention.lock, contention.task.request
    parking = parking_of(lock)
    contention.claim.adopts = ""  # the policy has tried to adopt the lease of the call before
    wait = longest_wait(task.app, contention.options, request.expires)
    id = ticket_id(request.headers, request.id, request.retries, request.replaced_task_nesting)
    ticket = Ticket(
        id,
        "",
        request.id,
        wait,
        contention.options.max_waiters,
        broker=broker_id(task.app),
        late=bool(task.acks_late),
        count=int(fields_of(request).get("count", 0)),
    )
    answer = lock._enter(parking, contention.claim, ticket)
    if isinstance(answer, Dropped) and not _may_be_copy(request):
        # The sender does not number messages, and the task's id was used before.
        ticket = replace(ticket, id=f"{id}:{new_publication()}")
        answer = lock._enter(parking, contention.claim, ticket)
    if isinstance(answer, Parked):
        # Reported before it parks. Afterwards another worker may run it first, and report that.
        _report_waiting(contention, parking)
        answer = lock._enter(parking, contention.claim, _with_message(contention, ticket))
    if isinstance(answer, Lease):
        contention.ticket = ticket.id if answer._has_ticket else ""
        events.send_running(task)
        return answer
    return _end_without_run(contention, parking, ticket, answer)


def _end_without_run(
    contention: RefusedRun, parking: Parking, ticket: Ticket, answer: Parked | Dropped | Full | Out
) -> NoReturn:
    task, key, request = contention.task, contention.key, contention.task.request
    if isinstance(answer, Parked):
        contention.refused = answer.refused
        dispatch_tickets(task.app, contention.lock._store_name, parking, answer.dispatches)
        if contention.options.park_safety_copy:
            _publish_safety_copy(contention, ticket)
        log_parked(task.name, request.id, contention)
        raise Deferred(f"parked: {contention.error()}")
    if isinstance(answer, Full):
        raise LockQueueFull(f"{answer.waiters} wait for {key!r} already: max_waiters allows no more", key)
    if isinstance(answer, Dropped):
        text = f"dropped a copy of {task.name}[{request.id}]: it is {answer.state}"
        _logging.line(logger, logging.INFO, "dropped", text, **contention.fields, reason=answer.state)
        raise Deferred(f"a copy of a task that is {answer.state}")
    contention.refused, contention.ticket = answer.refused, ticket.id
    if answer.reason == "timeout":
        contention.left_line = True
        raise timed_out(contention, contention.error())
    stored = not (task.ignore_result or request.ignore_result)
    revoke = partial(task.backend.mark_as_revoked, request.id, "revoked", request=request, store_result=stored)
    events.store_state(task, states.REVOKED, revoke)
    contention.left_line = True
    raise Deferred("revoked while it was parked")


def log_parked(name: str, task_id: str, contention: RefusedRun) -> None:
    """Log that a task is parked, with its key and its place in line."""
    place = (contention.refused.position or 0) + 1
    text = f"Task {name}[{task_id}] parked, number {place} in line: {contention.error()}"
    fields = {"key": contention.key, "task": name, "task_id": task_id, "holders": contention.holder_names}
    _logging.line(logger, logging.INFO, "parked", text, **fields)


def parking_of(lock: Lock) -> Parking:
    """Return the store of a lock, where tasks can park.

    Raises:
        LockConfigError: Tasks can't park in this store.
    """
    parking = tickets_of(lock._store)
    if parking is None:
        raise LockConfigError(
            f'no task can park in a {type(lock._store).__name__}: set on_contention="retry", or locks_url to a store '
            "of redis://, postgresql://, mysql:// or sqlite:///"
        )
    return parking


def ticket_id(headers: Any, task_id: str, retries: int | None, nesting: int | None) -> str:
    """Return the id of the ticket of a message. All copies of one publication of a task share it.

    Args:
        headers: The message's headers.
        task_id: The task's id.
        retries: How often the user's own retries have published it.
        nesting: How often it has replaced itself.
    """
    header = fields_in(headers, task_id)
    number = header.get("ticket") or header.get("publication")
    # A sender without this library does not number messages.
    return str(number or f"{task_id}:{retries or 0}:{nesting or 0}")


def _may_be_copy(request: Any) -> bool:
    """Return whether another copy of the same publication may have been delivered before this one."""
    header = fields_of(request)
    return bool("publication" in header or "ticket" in header or (request.delivery_info or {}).get("redelivered"))


def ticket_fields(lock: Lock, ticket: Ticket, since: float) -> dict[str, Any]:
    """Return the fields of our header in a message that is dispatched from the line."""
    header = {"id": ticket.task_id, "ticket": ticket.id, "broker": ticket.broker, "count": 1}
    return {**header, "key": lock.key, "since": since, **store_field(lock._store_name)}


def _since(contention: RefusedRun) -> float:
    return float(fields_of(contention.task.request).get("since") or wall_time())


def longest_wait(app: Any, options: LockOptions, expires: Any) -> float | None:
    """Return the seconds until ``max_wait`` is over or the message expires; ``None`` for no end.

    After that time the task is dispatched, and the worker that gets the message ends it.
    """
    waits = [options.max_wait]
    if expires:
        moment = maybe_make_aware(maybe_iso8601(expires), app.timezone)
        waits.append(max(0.0, (moment - app.now()).total_seconds()) + EXPIRY_MARGIN_SECONDS)
    return min((wait for wait in waits if wait is not None), default=None)


def _with_message(contention: RefusedRun, ticket: Ticket) -> Ticket:
    task, request = contention.task, contention.task.request
    message = pack(task, ticket_fields(contention.lock, ticket, _since(contention)))
    owner = owners.parked(task.name, request.id, queue_of(task.app, request.delivery_info))
    return replace(ticket, message=message, owner=owner)


def _report_waiting(contention: RefusedRun, parking: Parking) -> None:
    """Store the state WAITING, and send the event for monitors. If that fails, the task parks nevertheless."""
    task, request = contention.task, contention.task.request
    stored, sent = not (task.ignore_result or request.ignore_result), events.are_enabled(task.app)
    if not (stored or sent):
        return
    meta = {"key": contention.key, "position": parking.waiting(contention.claim.name)}
    if stored:
        events.store_state(task, WAITING, partial(task.update_state, state=WAITING, meta=meta))
    if sent:
        events.send(task, "task-waiting", **meta)


def _publish_safety_copy(contention: RefusedRun, ticket: Ticket) -> None:
    """Publish a copy of the message with a long countdown, in case the store loses the ticket.

    The run of a safety copy publishes the next one. The run of a message that was dispatched from the line does not.
    """
    task = contention.task
    header = fields_of(task.request)
    if "ticket" in header and not header.get("copy"):
        return
    option = contention.options.park_safety_copy
    countdown = min(SAFETY_COPY_SECONDS if option is True else option, longest_pause(task.app.conf) or float("inf"))
    fields = ticket_fields(contention.lock, ticket, _since(contention)) | {"copy": True, "count": 0}
    try:
        publish_later(task, countdown, lambda _: fields, retry_policy={"max_retries": 1, "interval_start": 0})
    except Exception as error:  # any error of the broker's client; the task is in line
        logger.warning("the safety copy of %s[%s] was not published: %s", task.name, task.request.id, error)
