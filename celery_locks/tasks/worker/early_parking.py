"""Parking before the pool, where the setting ``locks_park_before_pool`` is on.

The worker's parent looks at each message whose task parks. When its key is held it parks the message as it came, so
that it takes no slot of the pool. The parent never takes a lease, and whatever goes wrong here: the message goes the
ordinary way, and is parked by its run if need be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery.app.task import Context
from celery.worker.strategy import default

from celery_locks import _logging, owners
from celery_locks._runtime.clock import monotonic, wall_time
from celery_locks.errors import StoreUnavailable
from celery_locks.lock import Lock
from celery_locks.renewal import keeper
from celery_locks.stores.parking import Parking, Ticket, tickets_of
from celery_locks.tasks.app_settings import PARK_BEFORE_POOL
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.header import fields_in
from celery_locks.tasks.messages.pack import pack_message
from celery_locks.tasks.messages.publish import publish_dispatched
from celery_locks.tasks.messages.queues import queue_of
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.policies.basic import Park
from celery_locks.tasks.policies.park import LATE, WAITING, log_parked, longest_wait, push_of, ticket_fields, ticket_id
from celery_locks.tasks.policies.refused_run import RefusedRun
from celery_locks.tasks.spec import TaskWithLock

logger = _logging.logger(__name__)

#: Seconds for which the parent leaves a store alone that it could not reach: it has more to do than to wait for it.
LEFT_ALONE = 5.0


def strategy(task: TaskWithLock, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """What a worker does with each message of a task (``Task.Strategy``)."""
    handle: Callable[..., Any] = default(task, app, consumer, **options)
    if not app.conf.get(PARK_BEFORE_POOL, False) or not _parks_early(task):
        return handle
    parking = tickets_of(locks_for(app, task.lock_options.store).store)
    if parking is None:
        return handle
    early = EarlyParking(task, consumer, parking)

    def on_message(message: Any, body: Any, ack: Any, *others: Any, **options: Any) -> Any:
        if body is None and early.parks(message):
            return ack(logger, consumer.connection_errors)
        return handle(message, body, ack, *others, **options)

    return on_message


def _parks_early(task: TaskWithLock) -> bool:
    """Return whether the parent may park messages of a task.

    Its runs must take their lease by the line alone, and leave nothing at the broker. Its key must be a template or the
    default: a function may read what is set for the run only, such as a tenant.
    """
    spec = task.lock_spec
    by_line = isinstance(spec.run_policy, Park) and not spec.scope.call and not spec.options.park_safety_copy
    return by_line and not callable(spec.options.key)


class EarlyParking:
    """Parks messages of one task in the worker's parent.

    Args:
        task: The task.
        consumer: Celery's ``Consumer``.
        parking: The store.
    """

    def __init__(self, task: TaskWithLock, consumer: Any, parking: Parking) -> None:
        self._task = task
        self._consumer = consumer
        self._parking = parking
        self._left_alone_until = 0.0

    def parks(self, message: Any) -> bool:
        """Parks a message of protocol 2 if its key is held. Returns whether it did."""
        headers = message.headers
        # One that was in line already enters by its ticket, one that took its key at the call under that key. One that
        # waits for its eta has its turn by then.
        ours = fields_in(headers, headers["id"])
        settled = ours.keys() & {"ticket", "key", "options"}
        if settled or headers.get("eta") or not self._task.locks_runs():
            return False
        if headers["id"] in self._consumer.controller.state.revoked or monotonic() < self._left_alone_until:
            return False
        try:
            return self._park(message, headers)
        except StoreUnavailable as error:
            self._left_alone_until = monotonic() + LEFT_ALONE
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
        locks = locks_for(app, task.lock_options.store)
        lock = Lock(locks._space, task.lock_key_for(*args, **kwargs), task.lock_spec.terms, owner, sender=task)
        claim = lock._new_claim()
        id = ticket_id(headers, task_id, headers.get("retries"), headers.get("replaced_task_nesting"))
        ticket = Ticket(id, "", task_id, wait, task.lock_options.max_waiters, broker=broker_id(app))
        if self._parking.park(claim, ticket) is None:
            return False
        # Reported before it parks: afterwards another worker may have run it already, and reported that.
        self._report_waiting(message, lock)
        text = pack_message(app, message, ticket_fields(lock, ticket, wall_time()))
        push = push_of(app, text, self._parking) if self._virtual else None
        parked_owner = owners.parked(task.name, task_id, queue_of(app, message.delivery_info))
        ticket = replace(ticket, message=text, push=push, owner=parked_owner)
        try:
            parked = self._parking.park(claim, ticket)
        except StoreUnavailable:
            # The pool gets the message. A copy of the request that comes late must not park it.
            keeper().release_later(locks.store, claim.name, claim.token, claim.ttl)
            raise
        if parked is None:
            return False
        log_parked(task.name, task_id, RefusedRun(task, lock, claim, task.lock_options, refused=parked.refused))
        lock._report_contention(parked.refused)
        publish_dispatched(app, self._parking, parked.dispatches)
        return True

    @property
    def _virtual(self) -> bool:
        """Whether the broker may be the store: another one is not worth a connection of the parent's."""
        return bool(self._consumer.connection.transport.driver_type == "redis")

    def _report_waiting(self, message: Any, lock: Lock) -> None:
        task, headers, dispatcher = self._task, message.headers, self._consumer.event_dispatcher
        stored = not (task.ignore_result or headers.get("ignore_result"))
        told = bool(dispatcher and dispatcher.enabled and task.send_events)
        if not (stored or told):
            return
        meta = {"key": lock.key, "position": self._parking.waiting(lock._name)}
        if stored:
            args, kwargs, _ = message.payload
            request = Context(headers, args=args, kwargs=kwargs)
            task.backend.store_result(headers["id"], meta, WAITING, request=request)
        if told:
            shown = {"args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr")}
            ids = {name: headers.get(name) for name in ("root_id", "parent_id")}
            dispatcher.send("task-waiting", uuid=headers["id"], name=task.name, **shown, **ids, **meta)
