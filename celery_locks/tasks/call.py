"""Calls of tasks that acquire a lease at the call."""

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
from celery_locks.lock import Lock, describe_holders, holder_names
from celery_locks.tasks.messages.header import fields_in, store_field, with_fields
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.policies.base import Skipped
from celery_locks.tasks.spec import TaskLock, TaskWithLock

logger = _logging.logger(__name__)

#: The positional parameters of `Task.apply_async`, after the arguments of the task.
POSITIONAL = ("task_id", "producer", "link", "link_error", "shadow")
#: Options of a call whose outcome is awaited. A canvas sets them, and so does a caller with callbacks. Celery sets
#: ``chain`` (maybe empty) and ``parent_id`` for the next task of a chain. It sets ``reply_to`` with an id that others
#: know already, such as the id of a chord's body.
_AWAITED = ("chord", "group_id", "link", "link_error", "reply_to", "parent_id", "replaced_task_nesting")

#: The shortest lease of a call in seconds, also for a message that has expired when it is sent.
SHORTEST_TTL_AT_CALL = 1.0

Send = Callable[[dict[str, Any]], Any]


def is_new_call(task: TaskWithLock, options: Mapping[str, Any]) -> bool:
    """Return whether these options of ``apply_async`` are of a new call, and not of a message that is sent again."""
    task_id = options.get("task_id")
    # ``self.retry()`` sends again, and the worker's main process does for a process that died.
    is_again = options.get("retries") or (task_id is not None and task_id == task.request.id)
    known = fields_in(options.get("headers"), task_id)
    return not is_again and not known.keys() - {"id", "options", "publication"}


def call(task: TaskWithLock, spec: TaskLock, key: str, send: Send, options: dict[str, Any]) -> Any:
    """Acquire the lease for a call and send its message, by ``send(options)``.

    Returns:
        The result of ``send``, or of the policy if the key is held.

    Raises:
        LockContended: The key is held.
        StoreUnavailable: The store can't be reached; no message was sent.
    """
    options = {**options, "task_id": options.get("task_id") or uuid()}
    named = owners.lasting if spec.scope.lasting else owners.called
    owner = named(task.name, options["task_id"], host_and_pid())
    lock = lock_of_call(task, spec, key, owner)
    policy, ttl = spec.call_policy, ttl_at_call(task, spec, options)
    # A revoke finds leases by the task's id, and must not end a lasting one.
    task_id = "" if spec.scope.lasting else options["task_id"]
    claim = replace(lock._new_claim(), ttl=ttl, task_id=task_id, replaces=policy == "replace")
    try:
        answer = lock._attempt(claim, keep=False)
    except StoreUnavailable as error:
        if not options.get("parent_id"):
            raise
        # A worker sends it for a canvas, which would never end otherwise. The run acquires the lease.
        logger.warning("%s; %s[%s] is sent without a lease", error, task.name, options["task_id"])
        return send(options)
    if isinstance(answer, Lease):
        return _send_under(answer, spec, lock, send, options)
    return _refused(task, key, policy, holder_names(answer), send, options)


def lock_of_call(task: TaskWithLock, spec: TaskLock, key: str, owner: str) -> Lock:
    """Return the lock on which a call acquires its lease."""
    locks = locks_for(task.app, spec.options.store)
    lock = Lock(locks._space, key, spec.terms, owner, sender=task)
    if spec.scope.separate_locks:
        lock._name = locks._space.name(lock.key, CALL)
    return lock


def ttl_at_call(task: TaskWithLock, spec: TaskLock, options: Mapping[str, Any]) -> float:
    """Return the ttl of the lease of a call, in seconds. The task's ttl counts from when the message may be run."""
    options = {**task._get_exec_options(), **options}
    ttl = spec.options.ttl + max(0.0, pause_of(task.app, options.get("eta"), options.get("countdown")))
    expires = options.get("expires")
    if expires is not None and not spec.scope.lasting:
        ttl = min(ttl, max(_seconds_until(task.app, expires), min(ttl, SHORTEST_TTL_AT_CALL)))
    return min(ttl, LONGEST_TTL)


def pause_of(app: Any, eta: Any, countdown: Any) -> float:
    """Return the seconds until a message with these options may be run; below 0 for a time in the past."""
    moment = countdown or eta
    return _seconds_until(app, moment) if moment else 0.0


def _seconds_until(app: Any, moment: Any) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    if isinstance(moment, datetime):
        return float((maybe_make_aware(moment, app.timezone) - app.now()).total_seconds())
    return float(moment)


def _send_under(lease: Lease, spec: TaskLock, lock: Lock, send: Send, options: dict[str, Any]) -> Any:
    header = {"id": options["task_id"], "key": lock.key, "lock": lock._name, "token": lease.token}
    header |= store_field(lock._store_name)
    if spec.scope.lasting:
        header["lasting"] = True
    try:
        return send({**options, "headers": with_fields(options.get("headers"), **header)})
    except BaseException:
        release_or_later(lease)
        raise


def _refused(task: TaskWithLock, key: str, policy: str, holders: list[str], send: Send, options: dict[str, Any]) -> Any:
    task_id = options["task_id"]
    error = LockContended(f"{key!r} is not available: {describe_holders(holders)}", key, holders)
    text = f"{task.name}[{task_id}] was refused at its call: {error}"
    _logging.line(logger, logging.INFO, "refused", text, key=key, task=task.name, task_id=task_id, holders=holders)
    if options.get("chain") is not None or any(options.get(name) for name in _AWAITED):
        if task_id in map(owners.task_id_of, holders):  # ``self.replace()``: the task gives way to this one
            return send(options)
        header = {"id": task_id, "key": key, "refused": policy, "holders": holders}
        return send({**options, "headers": with_fields(options.get("headers"), **header)})
    if policy == "skip":
        return _skipped(task, task_id, Skipped(key, holders), options)
    if policy == "existing":
        for holder in holders:
            existing = owners.task_id_of(holder)
            if existing is not None:
                return task.AsyncResult(existing)
        error = LockContended(f"{error}. That is no task, so there is no existing result", key, holders)
    raise error


def _skipped(task: TaskWithLock, task_id: str, skipped: Skipped, options: Mapping[str, Any]) -> Any:
    """Return a result that is stored already, unless the task ignores results or has no backend."""
    ignored = options.get("ignore_result", task.ignore_result)
    if ignored or task.app.conf.task_always_eager or isinstance(task.backend, DisabledBackend):
        return EagerResult(task_id, skipped, states.SUCCESS, name=task.name)
    task.backend.mark_as_done(task_id, skipped)
    return task.AsyncResult(task_id)
