"""Deliveries, one at a time: the request and the solo pool of a worker in this process, with what they acknowledge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from celery import Celery, _state
from celery.concurrency.solo import TaskPool
from celery.result import AsyncResult
from celery.utils.imports import symbol_by_name
from kombu import Message

from celery_locks import Locks
from celery_locks.stores.parking import Parking
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.publish import publish_dispatched
from tests.tasks.service import deliver_again, messages_at


class StepWorker:
    """A worker of an app in this process that does one step when a test asks for it: receive, execute, sweep.

    It has no consumer and no sweeper. Between two steps nothing happens at its broker or in its lock store.

    Args:
        url: The Redis database that is broker, result backend and lock store.
        **conf: Settings of the app, unless `deploy` changes them.
    """

    def __init__(self, url: str, **conf: Any) -> None:
        self.url = url
        self._conf = conf
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self._pool = TaskPool()
        self._apps = list[Celery]()
        self._connections = list[Any]()
        self._parked = dict[str, Any]()
        self.app = self.deploy()

    def deploy(self, **conf: Any) -> Celery:
        """Return an app without tasks, which the worker runs from now on in place of the one before."""
        app = Celery("shop", broker=self.url, backend=self.url, set_as_current=False)
        app.conf.update(locks_url=self.url, **{**self._conf, **conf})
        self._apps.append(app)
        self.app = app
        return app

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        for app in self._apps:
            Locks.from_app(app).close()
            app.close()
        self._client.close()

    @property
    def locks(self) -> Locks:
        return Locks.from_app(self.app)

    # --- Messages ---

    def receive(self) -> Message:
        """Return the next message of the queue, by a connection of its own."""
        connection = self.app.connection_for_read()
        self._connections.append(connection)
        message = connection.default_channel.basic_get("celery")
        assert message is not None, "there is no message in the queue"
        return message

    def receive_copy(self) -> Message:
        """Return a copy of the one message at the broker, as it is delivered again while its first run goes on."""
        [message] = messages_at(self.url)
        deliver_again(self.url, message)
        return self.receive()

    def receive_again(self, message: Message) -> Message:
        """Return a message that was not acknowledged once more: its connection is lost, and the broker delivers it."""
        message.channel.connection.client.close()
        again = self.receive()
        assert again.delivery_info["redelivered"]
        return again

    def receive_older_copy(self) -> Message:
        """Return a copy of the message that parked last, as after a visibility timeout.

        Its run is owed: it is not the copy that the last dispatch published.
        """
        deliver_again(self.url, self._parked)
        return self.receive()

    def receive_from_dead_letters(self, content: dict[str, Any]) -> Message:
        """Return a message that was rejected, of which `content` is what the broker had, as a new one."""
        deliver_again(self.url, content, redelivered=False)
        return self.receive()

    def contents(self) -> list[dict[str, Any]]:
        """Return the messages at the broker, those that are not acknowledged among them."""
        return messages_at(self.url)

    # --- Runs ---

    def execute(self, message: Message) -> list[str]:
        """Execute the task of a message, as a worker with a solo pool does.

        Returns:
            What the worker did to the message, ``"ack"``, ``"reject"`` or ``"requeue"``; last the name of the error
            that stops the worker, if there is one.
        """
        done = list[str]()

        def acknowledge(*args: Any) -> None:
            done.append("ack")
            message.ack_log_error(*args)

        def reject(log: Any, errors: Any, requeue: bool = False) -> None:
            done.append("requeue" if requeue else "reject")
            message.reject_log_error(log, errors, requeue=requeue)

        task = self.app.tasks[message.headers["task"]]
        before = _state._tls.current_app
        self.app.set_current()  # the tracer of a process without a worker asks for it
        try:
            request = symbol_by_name(task.Request)(
                message,
                on_ack=acknowledge,
                on_reject=reject,
                hostname="worker@test",
                app=self.app,
                connection_errors=message.channel.connection.client.connection_errors,
                task=task,
            )
            if not request.revoked():
                request.execute_using_pool(self._pool)
        except (KeyboardInterrupt, SystemExit) as error:
            done.append(type(error).__name__)
        finally:
            _state._set_current_app(before)
        return done

    def park(self, key: str, call: Callable[[], AsyncResult]) -> AsyncResult:
        """Call a task while its key is held, and execute its message; the key is free when the task is parked."""
        with self.locks.lock(key, ttl=60):
            result = call()
            [self._parked] = self.contents()
            assert self.execute(self.receive()) == ["ack"]
            assert self.tickets(key) == ["parked"]
        return result

    def dispatch(self, key: str, call: Callable[[], AsyncResult]) -> tuple[AsyncResult, Message]:
        """Park a task, and return its result and the message of its dispatch."""
        result = self.park(key, call)
        assert self.sweep() == 1
        return result, self.receive()

    # --- The store ---

    @property
    def parking(self) -> Parking:
        store = self.locks.store
        assert isinstance(store, Parking)
        return store

    def sweep(self) -> int:
        """Sweep, and return how many messages were published by that, some of them by the store itself."""
        before = len(self.contents())
        dispatches = self.parking.sweep(self.locks.prefix, broker_id(self.app))
        publish_dispatched(self.app, self.parking, dispatches)
        return len(self.contents()) - before

    def tickets(self, key: str) -> list[str | None]:
        """Return the states of a key's tickets."""
        return [self._client.hget(name, "state") for name in self._ticket_names(key)]

    def evict_tickets(self, key: str) -> None:
        """Delete a key's tickets, as a server that is short of memory does, and leave its lock."""
        assert self._client.delete(*self._ticket_names(key)) > 0

    def _ticket_names(self, key: str) -> list[str]:
        return list(self._client.scan_iter(f"{self.locks._space.name(key)}:ticket:*"))
