"""Messages that will never run: the lease of their call is released immediately, and their ticket ends.

The worker that has the message notices by Celery's signals. No worker has a message that waits at the broker or in
line. For those, the command ``revoke``, which every worker receives, looks in the stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import signals

from celery_locks import _logging
from celery_locks.errors import LockError, StoreUnavailable
from celery_locks.locks import Locks
from celery_locks.stores.parking import tickets_of
from celery_locks.tasks._celery_patches import install_for_revokes
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.direct import dispatch_tickets
from celery_locks.tasks.messages.header import fields_in, store_in
from celery_locks.tasks.options import all_locks, locks_for
from celery_locks.tasks.run_end import RunEnd, end_of

logger = _logging.logger(__name__)


def withdraw(app: Any, task_ids: Iterable[str]) -> None:
    """Withdraw the tickets and call leases of revoked tasks that wait, and publish the tasks that this dispatches.

    Raises:
        StoreUnavailable: A store can't be reached; the tasks in other stores were withdrawn.
    """
    revoked, unavailable = list(task_ids), None
    for store, locks in all_locks(app).items():
        parking = tickets_of(locks.store)
        if parking is None:
            continue
        try:
            for task_id in revoked:
                dispatches = parking.withdraw(locks.prefix, broker_id(app), task_id)
                if dispatches:
                    dispatch_tickets(app, store, parking, dispatches)
        except StoreUnavailable as error:  # the other stores may be available
            unavailable = error
    if unavailable is not None:
        raise unavailable


def settle_message(app: Any, headers: Any, task_id: str | None, *, running: bool = False) -> None:
    """Release the lease of a message's call and finish its ticket, because its task will not run.

    Args:
        app: The app.
        headers: The message's headers.
        task_id: The task's id.
        running: Whether the run of the ticket has ended too. Otherwise a copy of the message may run elsewhere.
    """
    header = fields_in(headers, task_id)
    if not header.keys() & {"ticket", "token"}:
        return
    locks = locks_for(app, store_in(header))
    store = locks.store
    parking = tickets_of(store)
    if parking is not None and "ticket" in header:
        parking.finish(locks._space.name(header["key"]), header["ticket"], running=running)
    if "token" not in header or "lasting" in header:
        return
    if parking is None:
        store.release(header["lock"], header["token"])
        return
    _, dispatches = parking.end_run(header["lock"], header["token"], "final", broker=broker_id(app))
    if dispatches:
        dispatch_tickets(app, store_in(header), parking, dispatches)


def finish_ticket_safely(locks: Locks, key: str, ticket: str, token: str) -> None:
    """Finish the ticket of a run whose result is stored. Log an error of the store."""
    parking = tickets_of(locks.store)
    if parking is not None:
        _safely(lambda: parking.finish(locks._space.name(key), ticket, token))


def settle_message_safely(app: Any, headers: Any, task_id: str | None, *, running: bool = False) -> None:
    """Call `settle_message`. Log an error of the store."""
    _safely(lambda: settle_message(app, headers, task_id, running=running))


def withdraw_at_revokes() -> None:
    """Withdraw tasks from the stores at each control command that revokes them."""
    install_for_revokes(lambda app, task_ids: _safely(lambda: withdraw(app, task_ids)))


def _on_revoked(sender: Any, request: Any, **kwargs: Any) -> None:
    settle_message_safely(sender.app, request.headers, request.id, running=bool(kwargs.get("terminated")))


def _on_failure(sender: Any, task_id: str, exception: Any = None, **kwargs: Any) -> None:
    """Settle the message of a task that failed before its body, or whose process died.

    It fails before its body if ``before_start`` raises. The header of other messages has been removed by then.
    """
    request = getattr(sender, "request", None)
    if request is None or request.id != task_id or not hasattr(type(sender), "lock_options"):
        return
    if end_of(sender, exception) in (RunEnd.FINAL, RunEnd.STORED):
        is_dead = isinstance(exception, (WorkerLostError, TimeLimitExceeded))
        settle_message_safely(sender.app, request.headers, task_id, running=is_dead)


def _on_refused(sender: Any, message: Any, **kwargs: Any) -> None:
    """Settle a message that the worker can't read, or whose task is unknown."""
    headers = message.headers or {}
    settle_message_safely(sender.app, headers, headers.get("id"))


def _safely(action: Callable[[], None]) -> None:
    try:
        action()
    except LockError as error:
        logger.warning("%s; the leases of the task end with their ttl", error)
    except Exception:
        logger.exception("the leases of a task could not be released: they end with their ttl")


for _signal, _receiver in (
    (signals.task_revoked, _on_revoked),
    (signals.task_failure, _on_failure),
    (signals.task_unknown, _on_refused),
    (signals.task_rejected, _on_refused),
):
    _signal.connect(_receiver, weak=False, dispatch_uid=f"celery-locks-{_receiver.__name__}")
