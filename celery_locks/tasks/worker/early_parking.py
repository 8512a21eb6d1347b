"""Parking before the pool, unless the setting ``locks_park_before_pool`` is False.

The worker's main process checks each message whose task parks. If its key is held, it parks the message, which so takes
no slot of the pool. The main process never acquires a lease. After an error here the message goes to the pool, and its
run may park it.

The main process has an event loop, which a store must not hold up. So a request here may take a short time only. While
a store is slow or away, the pool parks the messages of all tasks with locks there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from celery.app.task import Context

from celery_locks import _logging, owners
from celery_locks._runtime.clock import monotonic, wall_time
from celery_locks.errors import StoreUnavailable
from celery_locks.lock import Lock
from celery_locks.renewal import keeper
from celery_locks.stores.parking import Parking, Ticket, tickets_of
from celery_locks.tasks import events
from celery_locks.tasks.app_settings import PARK_BEFORE_POOL
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.direct import dispatch_tickets
from celery_locks.tasks.messages.header import fields_in
from celery_locks.tasks.messages.pack import pack_message
from celery_locks.tasks.messages.queues import queue_of
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.policies.park import (
    EXPIRY_MARGIN_SECONDS,
    WAITING,
    log_parked,
    longest_wait,
    ticket_fields,
    ticket_id,
)
from celery_locks.tasks.policies.refused_run import RefusedRun
from celery_locks.tasks.spec import TaskWithLock
from celery_locks.tasks.worker.checks import parks

logger = _logging.logger(__name__)

#: The longest time that a request may take.
PATIENCE_SECONDS = 0.25
#: How long the main process does not ask a store again that was away, or slow twice in a row.
PAUSE_SECONDS = 5.0
#: How long a key counts as held after a message was parked for it.
HELD_SECONDS = 1.0
#: How many held keys the main process remembers.
MOST_HELD = 1000


def early_parking(task: TaskWithLock, app: Any, consumer: Any) -> EarlyParking | None:
    """Return what parks messages of a task early, ``None`` if only the pool parks them."""
    if not app.conf.get(PARK_BEFORE_POOL, True) or not _parks_early(task):
        return None
    parking = tickets_of(locks_for(app, task.lock_options.store).store)
    return None if parking is None else EarlyParking(task, consumer, parking)


def _parks_early(task: TaskWithLock) -> bool:
    """Return whether the main process may park messages of a task.

    The runs must acquire their leases by the line alone, and leave no safety copy at the broker. The key must be a
    template or the default one: a function may depend on the context of the run, such as a tenant.
    """
    spec = task.lock_spec
    by_line = parks(task) and not spec.scope.call and not spec.options.park_safety_copy
    return by_line and not callable(spec.options.key)


class Pace:
    """How fast a store answers the main process."""

    def __init__(self) -> None:
        self._paused_until = 0.0
        self._was_slow = False

    def is_paused(self, now: float) -> bool:
        """Return whether the store is left alone at this moment."""
        return now < self._paused_until

    def pause(self, why: object) -> None:
        """Leave the store alone for some seconds."""
        self._paused_until = monotonic() + PAUSE_SECONDS
        logger.warning("%s: messages are parked by the pool for %g s", why, PAUSE_SECONDS)

    def note(self, seconds: float) -> None:
        """Note how long the store took. The first slow answer may be an accident of this machine."""
        is_slow = seconds > PATIENCE_SECONDS
        if is_slow and self._was_slow:
            self.pause(f"parking took {seconds:.2g} s")
        self._was_slow = is_slow


_paces: WeakKeyDictionary[Parking, Pace] = WeakKeyDictionary()


class EarlyParking:
    """Parks messages of one task in the worker's main process."""

    def __init__(self, task: TaskWithLock, consumer: Any, parking: Parking) -> None:
        self._task = task
        self._consumer = consumer
        self._parking = parking
        self._pace = _paces.setdefault(parking, Pace())
        #: Names of locks for which messages were parked, and until when they count as held.
        self._held: dict[str, float] = {}

    def parks(self, message: Any) -> bool:
        """Park a message of protocol 2 if its key is held. Return whether it is parked now."""
        headers = message.headers
        # A dispatched message enters by its ticket, and a message with a lease of its call under that lease's key. The
        # key of a message with an eta may be free when its time has come.
        header = fields_in(headers, headers["id"])
        settled = header.keys() & {"ticket", "key", "options"}
        if settled or headers.get("eta") or not self._task.locks_runs():
            return False
        began = monotonic()
        if headers["id"] in self._consumer.controller.state.revoked or self._pace.is_paused(began):
            return False
        try:
            is_parked = self._park(message, headers)
        except StoreUnavailable as error:
            self._pace.pause(error)
        except Exception:
            logger.exception(
                "a message of %s could not be parked before the pool; it goes to the pool", self._task.name
            )
        else:
            self._pace.note(monotonic() - began)
            return is_parked
        return False

    def _park(self, message: Any, headers: Any) -> bool:
        task, app = self._task, self._task.app
        args, kwargs, _ = message.payload
        wait = longest_wait(app, task.lock_options, headers.get("expires"))
        if wait is not None and wait <= EXPIRY_MARGIN_SECONDS:  # it has expired
            return False
        task_id = headers["id"]
        owner = owners.running(task.name, task_id, self._consumer.hostname)
        locks = locks_for(app, task.lock_options.store)
        lock = Lock(locks._space, task.lock_key_for(*args, **kwargs), task.lock_spec.terms, owner, sender=task)
        claim = replace(lock._new_claim(), patience=PATIENCE_SECONDS)
        id = ticket_id(headers, task_id, headers.get("retries"), headers.get("replaced_task_nesting"))
        ticket = Ticket(id, "", task_id, wait, task.lock_options.max_waiters, broker=broker_id(app))
        stored, sent = self._reports(headers)
        # One request does for a key that was held a moment ago, unless the state is to be reported.
        is_held = self._held.get(claim.name, 0.0) > monotonic()
        if (stored or sent or not is_held) and self._parking.park(claim, ticket) is None:
            return False
        # Reported before it parks. Afterwards another worker may run it first, and report that.
        if stored or sent:
            self._report_waiting(message, lock, stored, sent)
        text = pack_message(app, message, ticket_fields(lock, ticket, wall_time()))
        parked_owner = owners.parked(task.name, task_id, queue_of(app, message.delivery_info))
        ticket = replace(ticket, message=text, owner=parked_owner)
        try:
            parked = self._parking.park(claim, ticket)
        except StoreUnavailable:
            # The pool gets the message. The release keeps a delayed copy of this request from parking it.
            keeper().release_later(locks.store, claim.name, claim.token, claim.ttl)
            raise
        if parked is None:
            self._held.pop(claim.name, None)
            return False
        self._note_held(claim.name)
        log_parked(task.name, task_id, RefusedRun(task, lock, claim, task.lock_options, refused=parked.refused))
        lock._report_contention(parked.refused)
        dispatch_tickets(app, task.lock_options.store, self._parking, parked.dispatches)
        return True

    def _note_held(self, name: str) -> None:
        self._held.pop(name, None)
        self._held[name] = monotonic() + HELD_SECONDS
        if len(self._held) > MOST_HELD:
            del self._held[next(iter(self._held))]

    def _reports(self, headers: Any) -> tuple[bool, bool]:
        """Return whether the state of a parked task is stored, and whether an event is sent."""
        stored = not (self._task.ignore_result or headers.get("ignore_result"))
        return stored, bool(self._task.send_events and events.are_enabled(self._task.app))

    def _report_waiting(self, message: Any, lock: Lock, stored: bool, sent: bool) -> None:
        task, headers, dispatcher = self._task, message.headers, self._consumer.event_dispatcher
        meta = {"key": lock.key, "position": self._parking.waiting(lock._name)}
        if stored:
            args, kwargs, _ = message.payload
            request = Context(headers, args=args, kwargs=kwargs)
            task.backend.store_result(headers["id"], meta, WAITING, request=request)
        if sent:
            arguments = {"args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr")}
            ids = {name: headers.get(name) for name in ("root_id", "parent_id")}
            dispatcher.send("task-waiting", uuid=headers["id"], name=task.name, **arguments, **ids, **meta)
