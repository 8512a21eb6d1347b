"""Messages that will never run: what was taken for them at their call is given back at once.

A worker that has the message tells by Celery's signals. One that still waits at the broker nobody has: the ``revoke``
command, which every worker hears, looks in the store for what its task has there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

from celery import signals
from celery.utils.functional import maybe_list

from celery_locks import log
from celery_locks.errors import LockError
from celery_locks.stores.parking import Call, Parking, tickets_of
from celery_locks.tasks.header import ours_in
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.sending import send_on

logger = log.logger(__name__)

#: Control commands that revoke tasks.
COMMANDS = ("revoke", "terminate")
_HEARD = "__celery_locks__"

SendOn = Callable[[Any, Parking, Sequence[Call]], object]


def withdraw(app: Any, task_ids: Iterable[str], send: SendOn = send_on) -> None:
    """Takes out of the store what tasks have there that wait and were revoked.

    Args:
        app: The app.
        task_ids: The tasks.
        send: Sends on the messages of those whose turn comes by it.
    """
    locks = locks_for(app)
    parking = tickets_of(locks.store)
    if parking is None:
        return
    for task_id in task_ids:
        calls = parking.withdraw(locks.prefix, task_id)
        if calls:
            send(app, parking, calls)


def give_back(app: Any, headers: Any, task_id: str | None, send: SendOn = send_on) -> None:
    """Gives back the lease that was taken at the call of a message that will never run, and ends its ticket."""
    ours = ours_in(headers, task_id)
    locks = locks_for(app)
    store = locks.store
    parking = tickets_of(store)
    if parking is not None and "ticket" in ours:
        parking.settle(locks.name(ours["key"]), ours["ticket"])
    if "token" not in ours or "lasting" in ours:
        return
    if parking is None:
        store.release(ours["lock"], ours["token"])
        return
    _, calls = parking.hand_on(ours["lock"], ours["token"])
    if calls:
        send(app, parking, calls)


def give_back_safely(app: Any, headers: Any, task_id: str | None) -> None:
    """`give_back`, and a line in the log where the store is away."""
    _safely(lambda: give_back(app, headers, task_id))


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
    if hasattr(sender, "lock_options"):
        give_back_safely(sender.app, request.headers, request.id)


def _on_failure(sender: Any, task_id: str, **kwargs: Any) -> None:
    """The task failed before its body: ``before_start`` raised. Else its message's header has been taken off."""
    request = getattr(sender, "request", None)
    if hasattr(sender, "lock_options") and request is not None and request.id == task_id:
        give_back_safely(sender.app, request.headers, task_id)


def _on_refused(sender: Any, message: Any, **kwargs: Any) -> None:
    """The worker knows no such task, or can't read the message."""
    headers = message.headers or {}
    give_back_safely(sender.app, headers, headers.get("id"))


def _safely(do: Callable[[], None]) -> None:
    try:
        do()
    except LockError as error:
        logger.warning("%s; what a revoked task has there ends with its ttl", error)
    except Exception:
        logger.exception("what a revoked task has in the store could not be given back: it ends with its ttl")


for _signal, _receiver in (
    (signals.task_revoked, _on_revoked),
    (signals.task_failure, _on_failure),
    (signals.task_unknown, _on_refused),
    (signals.task_rejected, _on_refused),
):
    _signal.connect(_receiver, weak=False, dispatch_uid=f"celery-locks-{_receiver.__name__}")
