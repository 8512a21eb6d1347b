"""Calls of tasks whose lease is taken at the call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.result import EagerResult
from celery.utils import uuid
from celery.utils.time import maybe_make_aware

from celery_locks import _logging, owners
from celery_locks._runtime.process import host_and_pid
from celery_locks._validation import LONGEST_TTL
from celery_locks.errors import LockContended, StoreUnavailable
from celery_locks.keys.names import CALL
from celery_locks.lease import Lease, release_or_later
from celery_locks.lock import Lock, holder_names, describe_holders
from celery_locks.tasks.messages.header import fields_in, store_field, with_fields
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.policies.base import Skipped
from celery_locks.tasks.spec import TaskLock, TaskWithLock

logger = _logging.logger(__name__)

#: What `Task.apply_async` takes by position, after the arguments of the task.
POSITIONAL = ("task_id", "producer", "link", "link_error", "shadow")
#: Options of a call for whose outcome somebody waits: a canvas gives them, and so does who asks for a callback. Celery
#: itself gives ``chain`` (maybe empty) and ``parent_id`` where it sends a chain's next task, ``reply_to`` with an id
#: that it has told beforehand, such as that of a chord's body.
_AWAITED = ("chord", "group_id", "link", "link_error", "reply_to", "parent_id", "replaced_task_nesting")

#: The lease of a call lasts for so many seconds at least, also if its message has expired when it is sent.
SHORTEST = 1.0

Send = Callable[[dict[str, Any]], Any]


def is_new_call(task: TaskWithLock, options: Mapping[str, Any]) -> bool:
    """Whether these options of ``apply_async`` are of a new call, and not of a message that is sent once more."""
    task_id = options.get("task_id")
    # Such as ``self.retry()``; its parent process retries for a worker that died.
    once_more = options.get("retries") or (task_id is not None and task_id == task.request.id)
    known = fields_in(options.get("headers"), task_id)
    return not once_more and not known.keys() - {"id", "options", "publication"}


def call(task: TaskWithLock, spec: TaskLock, key: str, send: Send, options: dict[str, Any]) -> Any:
    """Takes the lease for a call and sends its message.

    Args:
        task: The task.
        spec: Its lock, with the options of this call.
        key: The key of its arguments.
        send: Sends the message with these options.
        options: The options of ``apply_async``.

    Returns:
        What ``send`` returns, or what the policy makes of a key that is held.

    Raises:
        LockContended: The key is held.
        StoreUnavailable: The store is away; nothing was sent.
    """
    options = {**options, "task_id": options.get("task_id") or uuid()}
    named = owners.lasting if spec.scope.lasting else owners.called
    owner = named(task.name, options["task_id"], host_and_pid())
    lock = lock_of_call(task, spec, key, owner)
    policy, ttl = spec.call_policy, ttl_at_call(task, spec, options)
    # Under its task's id a revoke finds it, which is to leave a lasting one alone.
    task_id = "" if spec.scope.lasting else options["task_id"]
    claim = replace(lock._new_claim(), ttl=ttl, task_id=task_id, replaces=policy == "replace")
    try:
        answer = lock._attempt(claim, keep=False)
    except StoreUnavailable as error:
        if not options.get("parent_id"):
            raise
        # Sent by a worker for a canvas, which would never end. The run asks for the lease once more.
        logger.warning("%s; %s[%s] is sent without a lease", error, task.name, options["task_id"])
        return send(options)
    if isinstance(answer, Lease):
        return _send_under(answer, spec, lock, send, options)
    return _refused(task, key, policy, holder_names(answer), send, options)


def lock_of_call(task: TaskWithLock, spec: TaskLock, key: str, owner: str) -> Lock:
    """The lock on which a call takes its lease."""
    locks = locks_for(task.app, spec.options.store)
    lock = Lock(locks._space, key, spec.terms, owner, sender=task)
    if spec.scope.apart:
        lock._name = locks._space.name(lock.key, CALL)
    return lock


def ttl_at_call(task: TaskWithLock, spec: TaskLock, options: Mapping[str, Any]) -> float:
    """For how long the lease of a call is taken, in seconds: the ttl counts from when the message may be run."""
    options = {**task._get_exec_options(), **options}
    ttl = spec.options.ttl + max(0.0, pause_of(task.app, options.get("eta"), options.get("countdown")))
    expires = options.get("expires")
    if expires is not None and not spec.scope.lasting:
        ttl = min(ttl, max(_seconds_until(task.app, expires), min(ttl, SHORTEST)))
    return min(ttl, LONGEST_TTL)


def pause_of(app: Any, eta: Any, countdown: Any) -> float:
    """Seconds until a message with these options may be run; below 0 for a time that has passed."""
    moment = countdown or eta
    return _seconds_until(app, moment) if moment else 0.0


def _seconds_until(app: Any, moment: Any) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    if isinstance(moment, datetime):
        return float((maybe_make_aware(moment, app.timezone) - app.now()).total_seconds())
    return float(moment)


def _send_under(lease: Lease, spec: TaskLock, lock: Lock, send: Send, options: dict[str, Any]) -> Any:
    ours = {"id": options["task_id"], "key": lock.key, "lock": lock._name, "token": lease.token}
    ours |= store_field(lock._store_name)
    if spec.scope.lasting:
        ours["lasting"] = True
    try:
        return send({**options, "headers": with_fields(options.get("headers"), **ours)})
    except BaseException:
        release_or_later(lease)
        raise


def _refused(task: TaskWithLock, key: str, policy: str, holders: list[str], send: Send, options: dict[str, Any]) -> Any:
    task_id = options["task_id"]
    error = LockContended(f"{key!r} is not available: {describe_holders(holders)}", key, holders)
    said = f"{task.name}[{task_id}] was refused at its call: {error}"
    _logging.line(logger, logging.INFO, "refused", said, key=key, task=task.name, task_id=task_id, holders=holders)
    if _awaited(options):
        if task_id in map(owners.task_id_of, holders):  # ``self.replace()``: the task gives way to this one
            return send(options)
        ours = {"id": task_id, "key": key, "refused": policy, "holders": holders}
        return send({**options, "headers": with_fields(options.get("headers"), **ours)})
    if policy == "skip":
        return _skipped(task, task_id, Skipped(key, holders), options)
    if policy == "existing":
        for holder in holders:
            existing = owners.task_id_of(holder)
            if existing is not None:
                return task.AsyncResult(existing)
        error = LockContended(f"{error}. That is no task, so there is no existing result", key, holders)
    raise error


def _awaited(options: Mapping[str, Any]) -> bool:
    return options.get("chain") is not None or any(options.get(name) for name in _AWAITED)


def _skipped(task: TaskWithLock, task_id: str, skipped: Skipped, options: Mapping[str, Any]) -> Any:
    """A result that is there already, for others too unless nobody may ask for it."""
    ignored = options.get("ignore_result", task.ignore_result)
    if ignored or task.app.conf.task_always_eager or isinstance(task.backend, DisabledBackend):
        return EagerResult(task_id, skipped, states.SUCCESS, name=task.name)
    task.backend.mark_as_done(task_id, skipped)
    return task.AsyncResult(task_id)
