"""The tasks of `test_scopes.py` and `test_call_side.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

from celery_locks.settings import SCOPES


def define_scopes(app: Celery, base: type, body: Callable[..., str]) -> None:
    """For each scope ``<scope>``, and with a policy at the call ``<scope>_<policy>``; retries, and late ones."""
    options = {"bind": True, "shared": False, "base": base, "lock_key": "<key>"}
    options["lock_ttl"] = float(app.conf.shop_ttl)

    def work(self: Any, key: str, seconds: float = 0.0, until: str | None = None) -> str:
        return body(self, key, seconds, until)

    def counts_retries(self: Any, key: str) -> None:
        body(self, key)
        self.retry(countdown=0)

    def waits_for_retry(self: Any, key: str, countdown: float) -> str:
        body(self, key)
        if self.request.retries == 0:
            self.retry(countdown=countdown)
        return key

    def calls_itself(self: Any, key: str) -> str:
        """The next call is in the queue when it retries."""
        body(self, key)
        if self.request.retries == 0:
            self.apply_async((key,), countdown=60)
            self.retry(countdown=0)
        return key

    def replaces_itself(self: Any, key: str) -> None:
        self.replace(self.app.tasks["until_executed"].s(key))

    def raises(self: Any, key: str) -> None:
        body(self, key)
        raise ValueError("always")

    def ends_with(self: Any, key: str, how: str) -> None:
        body(self, key)
        raise {"reject": Reject("no"), "ignore": Ignore()}[how]

    retries = {"max_retries": 3}
    autoretry = {**retries, "autoretry_for": (ValueError,), "retry_kwargs": {"countdown": 0, "max_retries": 3}}
    for scope in SCOPES:
        scoped = {**options, "lock_scope": scope}
        app.task(work, name=scope, **scoped)
        app.task(work, name=f"{scope}_late", acks_late=True, reject_on_worker_lost=True, **scoped)
        app.task(counts_retries, name=f"retries_{scope}", **scoped, **retries)
        app.task(raises, name=f"autoretries_{scope}", **scoped, **autoretry)
        app.task(ends_with, name=f"ends_with_{scope}", **scoped)
    for policy in ("raise", "skip", "replace"):
        for scope in SCOPES[1:]:
            app.task(work, name=f"{scope}_{policy}", lock_on_contention=policy, lock_scope=scope, **options)
    for run in ("skip", "raise"):
        sides = {"lock_on_contention": {"call": "existing", "run": run}, "lock_scope": "until_and_while_executing"}
        app.task(work, name=f"apart_{run}", **sides, **options)
    sides = {"lock_on_contention": {"run": "skip"}, "lock_scope": "until_executing"}
    app.task(calls_itself, name="calls_itself", **sides, **options)
    app.task(replaces_itself, name="replaces_itself", lock_scope="until_executed", **options)
    app.task(work, name="replaces", lock_on_contention="replace", **options)
    app.task(work, name="until_executed_parks", lock_on_contention="park", lock_scope="until_executed", **options)
    app.task(waits_for_retry, name="waits_for_retry", lock_scope="until_executed", **options)
