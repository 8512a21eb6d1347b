"""Messages that will never run: what was acquired for them at their call is released at once.

A worker that has the message reports it by Celery's signals. No worker has one that waits at the broker: for
that, the command ``revoke``, which every worker receives, looks in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import signals
from celery.utils.functional import maybe_list

from celery_locks import _logging
from celery_locks.errors import LockError, StoreUnavailable
from celery_locks.locks import Locks
from celery_locks.stores.parking import Dispatch, Parking, tickets_of
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.header import fields_in, store_in
from celery_locks.tasks.messages.publish import publish_dispatched
from celery_locks.tasks.options import all_locks, locks_for
from celery_locks.tasks.run_end import RunEnd, end_of

logger = _logging.logger(__name__)

#: Control commands that revoke tasks.
COMMANDS = ("revoke", "terminate")
_HEARD = "__celery_locks__"

Publish = Callable[[Any, Parking, Sequence[Dispatch]], object]


def withdraw(app: Any, task_ids: Iterable[str], publish: Publish = publish_dispatched) -> None:
    """Take out of the store what tasks have there that wait and were revoked.

    Args:
        app: The app.
        task_ids: The tasks.
        publish: Publishes the messages of those whose turn comes by it.

    Raises:
        StoreUnavailable: A store can't be reached; those of the others were withdrawn.
    """
    revoked, problem = list(task_ids), None
    for locks in all_locks(app).values():
        parking = tickets_of(locks.store)
        if parking is None:
            continue
        try:
            for task_id in revoked:
                dispatches = parking.withdraw(locks.prefix, broker_id(app), task_id)
                if dispatches:
                    publish(app, parking, dispatches)
        except StoreUnavailable as error:  # the other stores are there
            problem = error
    if problem is not None:
        raise problem


def settle_message(
    app: Any, headers: Any, task_id: str | None, publish: Publish = publish_dispatched, *, running: bool = False
) -> None:
    """Release the lease that was acquired at the call of a message, and end its ticket: its task needs neither.

    Args:
        app: The app.
        headers: The message's headers.
        task_id: The task's id.
        publish: Publishes the messages of those whose turn comes by it.
        running: Whether the run of the ticket has ended too. Otherwise a copy of the message may run elsewhere.
    """
    ours = fields_in(headers, task_id)
    if not ours.keys() & {"ticket", "token"}:
        return
    locks = locks_for(app, store_in(ours))
    store = locks.store
    parking = tickets_of(store)
    if parking is not None and "ticket" in ours:
        parking.finish(locks._space.name(ours["key"]), ours["ticket"], running=running)
    if "token" not in ours or "lasting" in ours:
        return
    if parking is None:
        store.release(ours["lock"], ours["token"])
        return
    _, dispatches = parking.end_run(ours["lock"], ours["token"], "final", broker=broker_id(app))
    if dispatches:
        publish(app, parking, dispatches)


def finish_safely(locks: Locks, key: str, ticket: str, token: str) -> None:
    """End the ticket of a run whose result is stored; log where the store is away."""
    parking = tickets_of(locks.store)
    if parking is not None:
        _safely(lambda: parking.finish(locks._space.name(key), ticket, token))


def settle_message_safely(app: Any, headers: Any, task_id: str | None, *, running: bool = False) -> None:
    """Call `settle_message`; log where the store is away."""
    _safely(lambda: settle_message(app, headers, task_id, running=running))


def hear_revokes() -> None:
    """Has the control commands that revoke tasks look in the store too (once a process)."""
    from celery.worker.control import Panel  # much else comes with it, which only workers need

    for name in COMMANDS:
        command = Panel.data[name]
        if not hasattr(command, _HEARD):
            Panel.data[name] = _hearing(command, 0 if name == "revoke" else 1)


def _hearing(command: Callable[..., Any], position: int) -> Callable[..., Any]:
    @wraps(command)
    def hearing(state: Any, *args: Any, **kwargs: Any) -> Any:
        answer = command(state, *args, **kwargs)
        task_ids = kwargs.get("task_id") or args[position : position + 1]
        _safely(lambda: withdraw(state.app, maybe_list(task_ids) or ()))
        return answer

    setattr(hearing, _HEARD, True)
    return hearing


def _on_revoked(sender: Any, request: Any, **kwargs: Any) -> None:
    settle_message_safely(sender.app, request.headers, request.id, running=bool(kwargs.get("terminated")))


def _on_failure(sender: Any, task_id: str, exception: Any = None, **kwargs: Any) -> None:
    """The task failed before its body, as ``before_start`` raised; or in the worker's parent, as its process died.

    Other messages have lost our header by then.
    """
    request = getattr(sender, "request", None)
    if request is None or request.id != task_id or not hasattr(type(sender), "lock_options"):
        return
    if end_of(sender, exception) in (RunEnd.FINAL, RunEnd.STORED):
        settle_message_safely(sender.app, request.headers, task_id, running=isinstance(exception, WorkerLostError))


def _on_refused(sender: Any, message: Any, **kwargs: Any) -> None:
    """The worker knows no such task, or can't read the message."""
    headers = message.headers or {}
    settle_message_safely(sender.app, headers, headers.get("id"))


def _safely(do: Callable[[], None]) -> None:
    try:
        do()
    except LockError as error:
        logger.warning("%s; what the task has there ends with its ttl", error)
    except Exception:
        logger.exception("what a task has in the store could not be released: it ends with its ttl")


for _signal, _receiver in (
    (signals.task_revoked, _on_revoked),
    (signals.task_failure, _on_failure),
    (signals.task_unknown, _on_refused),
    (signals.task_rejected, _on_refused),
):
    _signal.connect(_receiver, weak=False, dispatch_uid=f"celery-locks-{_receiver.__name__}")
