"""Parking before the pool, where the setting ``locks_park_before_pool`` is on.

The worker's parent looks at each message whose task parks. When its key is held it parks the message as it came, so
that it takes no slot of the pool. The parent never takes a lease, and whatever goes wrong here: the message goes the
ordinary way, and is parked by its run if need be.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.worker.strategy import default

from celery_locks import log, owners
from celery_locks.errors import StoreUnavailable
from celery_locks.lock import Lock, holder_names, who_holds
from celery_locks.stores.parking import Parked, Parking, Ticket, tickets_of
from celery_locks.tasks.message import HEADER, pack_message
from celery_locks.tasks.options import PARK_BEFORE_POOL, locks_for
from celery_locks.tasks.park import LATE, WAITING, Park, header_of, longest_wait, push_of, ticket_id
from celery_locks.tasks.queues import queue_of
from celery_locks.tasks.sending import send_on

if TYPE_CHECKING:
    from celery_locks.tasks.task import LockedTask

logger = log.logger(__name__)

#: Seconds for which the parent leaves a store alone that it could not reach: it has more to do than to wait for it.
LEFT_ALONE = 5.0


def strategy(task: LockedTask, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """What a worker does with each message of a task (``Task.Strategy``)."""
    handle: Callable[..., Any] = default(task, app, consumer, **options)
    if not app.conf.get(PARK_BEFORE_POOL, False) or not _parks_early(task):
        return handle
    parking = tickets_of(locks_for(app).store)
    if parking is None:
        return handle
    early = EarlyParking(task, consumer, parking)

    def on_message(message: Any, body: Any, ack: Any, *others: Any, **options: Any) -> Any:
        if body is None and early.parks(message):
            return ack(logger, consumer.connection_errors)
        return handle(message, body, ack, *others, **options)

    return on_message


def _parks_early(task: LockedTask) -> bool:
    """Whether its runs take their lease by the line alone, and leave nothing at the broker."""
    copies = task.lock_options.park_safety_copy
    return isinstance(task.lock_run_policy, Park) and not task.lock_in_scope.call and not copies


class EarlyParking:
    """Parks messages of one task in the worker's parent.

    Args:
        task: The task.
        consumer: Celery's ``Consumer``.
        parking: The store.
    """

    def __init__(self, task: LockedTask, consumer: Any, parking: Parking) -> None:
        self._task = task
        self._consumer = consumer
        self._parking = parking
        self._left_alone_until = 0.0

    def parks(self, message: Any) -> bool:
        """Parks a message of protocol 2 if its key is held. Returns whether it did."""
        headers = message.headers
        # One that has a header of ours was in line already. One that waits for its eta has its turn by then.
        if headers.get(HEADER) or headers.get("eta") or not self._task.locks_runs():
            return False
        if headers["id"] in self._consumer.controller.state.revoked or time.monotonic() < self._left_alone_until:
            return False
        try:
            return self._park(message, headers)
        except StoreUnavailable as error:
            self._left_alone_until = time.monotonic() + LEFT_ALONE
            logger.warning("%s; messages are parked by the pool for %g s", error, LEFT_ALONE)
        except Exception:
            logger.exception("a message of %s could not be looked at; it goes to the pool", self._task.name)
        return False

    def _park(self, message: Any, headers: Any) -> bool:
        task, app = self._task, self._task.app
        args, kwargs, _ = message.payload
        wait = longest_wait(app, task.lock_options, headers.get("expires"))
        if wait is not None and wait <= LATE:  # it has expired
            return False
        task_id = headers["id"]
        owner = owners.running(task.name, task_id, self._consumer.hostname)
        lock = Lock(locks_for(app), task.lock_key_for(*args, **kwargs), task.lock_terms, owner, sender=task)
        claim, id = lock.claim(), ticket_id(task_id, headers.get("retries"))
        ticket = Ticket(id, "", task_id, wait, task.lock_options.max_waiters)
        if self._parking.park(claim, ticket) is None:
            return False
        # Told before it parks: afterwards another worker may have run it already, and told so.
        self._tell_waiting(message, lock)
        text = pack_message(app, message, header_of(lock.key, ticket, time.time()))
        push = push_of(app, text, self._parking) if self._virtual else None
        parked_owner = owners.parked(task.name, task_id, queue_of(app, message.delivery_info))
        ticket = replace(ticket, message=text, push=push, owner=parked_owner)
        parked = self._parking.park(claim, ticket)
        if parked is None:
            return False
        self._after(lock, task_id, parked)
        return True

    @property
    def _virtual(self) -> bool:
        """Whether the broker may be the store: another one is not worth a connection of the parent's."""
        return bool(self._consumer.connection.transport.driver_type == "redis")

    def _after(self, lock: Lock, task_id: str, parked: Parked) -> None:
        holders = holder_names(parked.refused)
        said = f"Task {self._task.name}[{task_id}] parked: {lock.key!r} is not to be had now: {who_holds(holders)}"
        named = {"task": self._task.name, "task_id": task_id}
        log.line(logger, logging.INFO, "parked", said, key=lock.key, holders=holders, **named)
        lock.contended(parked.refused)
        send_on(self._task.app, self._parking, parked.calls)

    def _tell_waiting(self, message: Any, lock: Lock) -> None:
        task, headers, dispatcher = self._task, message.headers, self._consumer.event_dispatcher
        stored = not (task.ignore_result or headers.get("ignore_result"))
        told = bool(dispatcher and dispatcher.enabled and task.send_events)
        if not (stored or told):
            return
        meta = {"key": lock.key, "position": self._parking.waiting(lock.name)}
        if stored:
            args, kwargs, _ = message.payload
            request = Context(headers, args=args, kwargs=kwargs)
            task.backend.store_result(headers["id"], meta, WAITING, request=request)
        if told:
            shown = {"args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr")}
            ids = {name: headers.get(name) for name in ("root_id", "parent_id")}
            dispatcher.send("task-waiting", uuid=headers["id"], name=task.name, **shown, **ids, **meta)
