"""Direct dispatch in a worker's main process: offered tickets become messages of its own consumer.

`celery_locks.tasks.messages.direct` describes the other side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import celery
from celery import bootsteps
from celery.worker import state

from celery_locks import _logging
from celery_locks._runtime.clock import monotonic
from celery_locks._runtime.hubs import current_hub
from celery_locks.stores.parking import Dispatch, tickets_of
from celery_locks.tasks.app_settings import DIRECT_DISPATCH
from celery_locks.tasks.messages.direct import offers_of
from celery_locks.tasks.messages.pack import message_of, publish_rejected
from celery_locks.tasks.messages.publish import publish_dispatched
from celery_locks.tasks.messages.queues import queue_of
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.policies.deferral import RETRY_FOREVER
from celery_locks.tasks.worker.background import background

logger = _logging.logger(__name__)

#: How long a dispatched task may wait for a slot of the pool. Then its message is published, for workers that are idle.
MOST_WAIT_FOR_SLOT_SECONDS = 1.0
#: Whether Celery reports a run that a hard time limit has ended. Otherwise a late-acknowledged task would run again.
HARD_LIMITS_SEND_SIGNALS = celery.VERSION >= (5, 7)
#: How long a worker that stops waits until its messages are published.
MOST_WAIT_AT_STOP_SECONDS = 2.0


@dataclass
class Accepted:
    """A ticket that waits for a slot of the pool.

    Attributes:
        store: The name of its store.
        dispatch: The ticket.
        request: Celery's request.
        at: When it was accepted, by the monotonic clock.
    """

    store: str
    dispatch: Dispatch
    request: Any
    at: float

    @property
    def has_started(self) -> bool:
        """Whether its run has started."""
        return self.request.time_start is not None


class DirectDispatchStep(bootsteps.StartStopStep):
    """Runs dispatched tickets in this worker, while it is connected to its broker."""

    name = "celery-locks-direct-dispatch"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._app = consumer.app
        self._offers = offers_of(consumer.app) if consumer.app.conf.get(DIRECT_DISPATCH, True) else None
        #: By the ticket's id, the longest-waiting first.
        self._waiting: dict[str, Accepted] = {}
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Accept offers in a pool of greenlets, which has no event loop."""
        if self._offers is not None and consumer.hub is None and (hub := current_hub()) is not None:
            self._offers.open_to_greenlets(hub, partial(self._take, consumer))

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Accept offers in the event loop. Celery calls this after each connection."""
        if self._offers is not None:
            hub.add_reader(self._offers, self._on_offer, consumer)
            self._offers.open()

    def stop(self, consumer: Any) -> None:
        """Publish the messages of tickets that have no slot: with the connection, Celery drops what waits for one."""
        if self._offers is None:
            return
        self._offers.close()
        while offer := self._offers.receive():
            self._publish(*offer)
        waiting, self._waiting, self._timer = self._waiting, {}, None
        for each in list(waiting.values()):
            if not each.has_started:
                self._publish(each.store, each.dispatch)

    def shutdown(self, consumer: Any) -> None:
        """Stop, and wait until the messages are published."""
        self.stop(consumer)
        background().finish(MOST_WAIT_AT_STOP_SECONDS)

    def _on_offer(self, consumer: Any) -> None:
        # One for each turn of the loop, so that the broker's messages have their turn as well.
        try:
            offer = self._offers.receive() if self._offers is not None else None
            if offer is not None:
                self._take(consumer, *offer)
        except Exception:  # an error would end the event loop
            logger.exception("a dispatched task was not taken: the sweeper dispatches it again")

    def _take(self, consumer: Any, store: str, dispatch: Dispatch) -> None:
        """Give the message of a ticket to the consumer, as if the broker had delivered it. Publish it if that fails."""
        try:
            message = message_of(dispatch.message, _Channel(partial(self._on_reject, dispatch)), dispatch.id)
            message.accept = consumer.task_consumer.accept  # as for a message of the broker
            if self._can_run(consumer, message) and message.payload:
                consumer.task_consumer.on_message(message)
                self._watch(consumer, store, dispatch, message.headers["id"])
                return
        except Exception:
            logger.exception("a dispatched task could not be run here: its message is published")
        self._publish(store, dispatch)

    @staticmethod
    def _can_run(consumer: Any, message: Any) -> bool:
        """Return whether this worker would get the message from the broker, and has room for it."""
        name, tasks = message.headers["task"], consumer.task_consumer
        if tasks is None or name not in consumer.strategies or consumer.task_buckets.get(name):
            return False
        if not HARD_LIMITS_SEND_SIGNALS and consumer.app.tasks[name].acks_late:
            return False
        queue = queue_of(consumer.app, message.delivery_info)
        if queue is None or not tasks.consuming_from(queue):
            return False
        waiting = len(state.reserved_requests) - len(state.active_requests)
        return bool(waiting <= max(consumer.pool.num_processes, consumer.initial_prefetch_count))

    def _watch(self, consumer: Any, store: str, dispatch: Dispatch, task_id: str) -> None:
        """Note a task that waits for a slot."""
        request = state.requests.get(task_id)
        if request is None or request.time_start is not None:  # it was revoked, or runs already
            return
        self._waiting[dispatch.id] = Accepted(store, dispatch, request, monotonic())
        if self._timer is None:
            self._timer = consumer.timer.call_after(MOST_WAIT_FOR_SLOT_SECONDS, self._check, (consumer,))

    def _check(self, consumer: Any) -> None:
        """Publish the messages of tasks that have waited for too long. A task that starts meanwhile runs once, too."""
        until = monotonic() - MOST_WAIT_FOR_SLOT_SECONDS
        for ticket, waiting in list(self._waiting.items()):
            if not waiting.has_started and waiting.at > until:
                continue
            del self._waiting[ticket]
            if not waiting.has_started:
                self._publish(waiting.store, waiting.dispatch)
        self._timer = None
        if self._waiting:
            self._timer = consumer.timer.call_after(MOST_WAIT_FOR_SLOT_SECONDS, self._check, (consumer,))

    def _publish(self, store: str, dispatch: Dispatch) -> None:
        """Publish the message of a ticket, in the background."""
        parking = tickets_of(locks_for(self._app, store).store)
        if parking is not None:
            background().submit(partial(publish_dispatched, self._app, parking, [dispatch]))

    def _on_reject(self, dispatch: Dispatch) -> None:
        background().submit(partial(self._publish_rejected, dispatch))

    def _publish_rejected(self, dispatch: Dispatch) -> None:
        """Publish a message that was rejected, until the broker has it: the store does not dispatch it again."""
        with self._app.producer_or_acquire() as producer:
            if producer.connection.transport.driver_type == "amqp":  # no other broker has dead-letter queues
                publish_rejected(producer, dispatch.message, retry=True, retry_policy=RETRY_FOREVER)


class _Channel:
    """Stands for the broker's channel: gets the acknowledgement of a message that the broker does not have.

    The ticket records whether the task has to run again. So there is nothing to do, except for a rejection: the broker
    may have a dead-letter queue.
    """

    no_ack_consumers = None

    def __init__(self, on_reject: Any) -> None:
        self._on_reject = on_reject

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Acknowledge the message."""

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject the message."""
        if not requeue:
            self._on_reject()
