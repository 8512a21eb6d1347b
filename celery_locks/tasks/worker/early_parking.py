"""Parking before the pool, unless the setting ``locks_park_before_pool`` is False.

The worker's main process checks each message whose task parks. If its key is held, it parks the message, which so takes
no slot of the pool. The main process never acquires a lease. After an error here the message goes to the pool, and its
run may park it.

The main process has an event loop, which a store must not hold up. So a request here may take a short time only. While
a store is slow or away, the pool parks the messages of all tasks with locks there. The result backend is called in the
background.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery.app.task import Context

from celery_locks import _logging, owners
from celery_locks._runtime.clock import monotonic, wall_time
from celery_locks.errors import StoreUnavailable
from celery_locks.lock import Lock
from celery_locks.renewal import keeper
from celery_locks.stores.parking import Parking, Ticket, tickets_of
from celery_locks.stores.types import Claim
from celery_locks.tasks import events
from celery_locks.tasks.app_settings import PARK_BEFORE_POOL
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.direct import dispatch_tickets, offers_of
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
from celery_locks.tasks.worker.background import background
from celery_locks.tasks.worker.checks import parks

T = TypeVar("T")
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


@dataclass(frozen=True)
class Arrival:
    """A message that has arrived, and what it takes to park it."""

    message: Any
    lock: Lock
    claim: Claim
    ticket: Ticket


class EarlyParking:
    """Parks messages of one task in the worker's main process."""

    def __init__(self, task: TaskWithLock, consumer: Any, parking: Parking) -> None:
        self._task = task
        self._consumer = consumer
        self._parking = parking
        self._pace = _paces.setdefault(parking, Pace())
        #: Names of locks for which messages were parked, and until when they count as held.
        self._held: dict[str, float] = {}

    def handle(self, message: Any, acknowledge: Callable[[], Any], give_to_pool: Callable[[], Any]) -> Any:
        """Park a message if its key is held; otherwise give it to the pool.

        Args:
            message: A message of protocol 2.
            acknowledge: Acknowledges it.
            give_to_pool: Gives it to the pool.
        """
        began = monotonic()
        arrival = None if self._pace.is_paused(began) else self._safely(lambda: self._arrival(message))
        if arrival is None:
            return give_to_pool()
        reports = self._reports(message.headers)
        if any(reports):
            is_held = self._safely(lambda: self._parking.park(arrival.claim, arrival.ticket)) is not None
            self._pace.note(monotonic() - began)
            if not is_held:
                return give_to_pool()
            # The result backend may take long, or hang. It gets the state before the task parks: afterwards another
            # worker may run the task first, and report that.
            return self._in_background(lambda: self._report_and_park(arrival, *reports), acknowledge, give_to_pool)
        is_parked = self._safely(lambda: self._park(arrival))
        self._pace.note(monotonic() - began)
        return acknowledge() if is_parked else give_to_pool()

    def _in_background(
        self, park: Callable[[], bool], acknowledge: Callable[[], Any], give_to_pool: Callable[[], Any]
    ) -> None:
        """Park a message in a thread, and do what follows in the event loop. A pool of greenlets has no event loop."""
        hub, offers = self._consumer.hub, offers_of(self._task.app)
        if hub is None:
            (acknowledge if self._safely(park) else give_to_pool)()
            return

        def run() -> None:
            hub.call_soon(self._safely, acknowledge if self._safely(park) else give_to_pool)
            if offers is not None:
                offers.wake()

        background().submit(run)

    def _safely(self, step: Callable[[], T]) -> T | None:
        """Return the answer of a step, ``None`` after an error: then the pool gets the message."""
        try:
            return step()
        except StoreUnavailable as error:
            self._pace.pause(error)
        except Exception:
            logger.exception(
                "a message of %s could not be parked before the pool; it goes to the pool", self._task.name
            )
        return None

    def _arrival(self, message: Any) -> Arrival | None:
        """Return how a message parks, ``None`` if only the pool can handle it."""
        task, app, headers = self._task, self._task.app, message.headers
        task_id = headers.get("id")
        # A dispatched message enters by its ticket, and a message with a lease of its call under that lease's key. The
        # key of a message with an eta may be free when its time has come.
        settled = fields_in(headers, task_id).keys() & {"ticket", "key", "options"}
        if task_id is None or settled or headers.get("eta") or not task.locks_runs():
            return None
        if task_id in self._consumer.controller.state.revoked:
            return None
        if not isinstance(message.payload, (list, tuple)):  # arguments of protocol 1
            return None
        args, kwargs, _ = message.payload
        wait = longest_wait(app, task.lock_options, headers.get("expires"))
        if wait is not None and wait <= EXPIRY_MARGIN_SECONDS:  # it has expired
            return None
        owner = owners.running(task.name, task_id, self._consumer.hostname)
        locks = locks_for(app, task.lock_options.store)
        lock = Lock(locks._space, task.lock_key_for(*args, **kwargs), task.lock_spec.terms, owner, sender=task)
        claim = replace(lock._new_claim(), patience=PATIENCE_SECONDS)
        id = ticket_id(headers, task_id, headers.get("retries"), headers.get("replaced_task_nesting"))
        ticket = Ticket(id, "", task_id, wait, task.lock_options.max_waiters, broker=broker_id(app))
        return Arrival(message, lock, claim, ticket)

    def _park(self, arrival: Arrival) -> bool:
        """Park a message if its key is held. Return whether it is parked."""
        claim = arrival.claim
        # One request does for a key that was held a moment ago.
        is_held = self._held.get(claim.name, 0.0) > monotonic()
        if not is_held and self._parking.park(claim, arrival.ticket) is None:
            return False
        return self._park_held(arrival)

    def _report_and_park(self, arrival: Arrival, stored: bool, sent: bool) -> bool:
        self._report_waiting(arrival, stored, sent)
        return self._park_held(arrival)

    def _park_held(self, arrival: Arrival) -> bool:
        """Park a message whose key was held a moment ago. Return whether it is parked."""
        task, message, lock, claim = self._task, arrival.message, arrival.lock, arrival.claim
        text = pack_message(task.app, message, ticket_fields(lock, arrival.ticket, wall_time()))
        owner = owners.parked(task.name, arrival.ticket.task_id, queue_of(task.app, message.delivery_info))
        try:
            parked = self._parking.park(claim, replace(arrival.ticket, message=text, owner=owner))
        except StoreUnavailable:
            # The pool gets the message. The release keeps a delayed copy of this request from parking it.
            keeper().release_later(lock._store, claim.name, claim.token, claim.ttl)
            raise
        if parked is None:
            self._held.pop(claim.name, None)
            return False
        self._note_held(claim.name)
        run = RefusedRun(task, lock, claim, task.lock_options, refused=parked.refused)
        log_parked(task.name, arrival.ticket.task_id, run)
        lock._report_contention(parked.refused)
        if parked.dispatches:
            store = task.lock_options.store
            background().submit(partial(dispatch_tickets, task.app, store, self._parking, parked.dispatches))
        return True

    def _note_held(self, name: str) -> None:
        self._held.pop(name, None)
        self._held[name] = monotonic() + HELD_SECONDS
        if len(self._held) > MOST_HELD:
            self._held.pop(next(iter(self._held)), None)

    def _reports(self, headers: Any) -> tuple[bool, bool]:
        """Return whether the state of a parked task is stored, and whether an event is sent."""
        stored = not (self._task.ignore_result or headers.get("ignore_result"))
        return stored, bool(self._task.send_events and events.are_enabled(self._task.app))

    def _report_waiting(self, arrival: Arrival, stored: bool, sent: bool) -> None:
        """Store the state WAITING, and send the event for monitors. If that fails, the task parks nevertheless."""
        task, headers, dispatcher = self._task, arrival.message.headers, self._consumer.event_dispatcher
        meta = {"key": arrival.lock.key, "position": self._parking.waiting(arrival.claim.name)}
        args, kwargs, _ = arrival.message.payload
        try:
            if stored:
                request = Context(headers, args=args, kwargs=kwargs)
                task.backend.store_result(headers["id"], meta, WAITING, request=request)
        except Exception as error:  # any error of the backend
            logger.warning("the state %s of %s[%s] was not stored: %s", WAITING, task.name, headers["id"], error)
        try:
            if sent and dispatcher is not None:
                arguments = {"args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr")}
                ids = {name: headers.get(name) for name in ("root_id", "parent_id")}
                dispatcher.send("task-waiting", uuid=headers["id"], name=task.name, **arguments, **ids, **meta)
        except Exception as error:  # any error of the broker
            logger.warning("the event task-waiting was not sent for %s[%s]: %s", task.name, headers["id"], error)
