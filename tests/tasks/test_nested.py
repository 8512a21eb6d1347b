"""A body that asks for the key of its own run: a `LockError` at once, whatever the policy."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_locks import LockContended, LockedTask, LockError, Locks, LockTimeout, current_lease
from celery_locks.stores.memory import MemoryStore

NESTED = "'k' already and would wait for itself: use current_lease()"


class Eager:
    """An app with a task whose body may do something under the lease of its run."""

    def __init__(self, **options: Any) -> None:
        self.app = Celery("nested", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.app.conf.locks_url = MemoryStore()
        self.locks = Locks(self.app.conf.locks_url)
        options = {"base": LockedTask, "bind": True, "shared": False, "lock_key": "k", **options}

        @self.app.task(name="outer", **options)
        def outer(task: Any, body: Any) -> Any:
            return body()

        @self.app.task(name="inner", **options)
        def inner(task: Any) -> str:
            return "ran"

        self.outer, self.inner = outer, inner

    def error(self, body: Any) -> BaseException:
        result = self.outer.apply((body,))
        assert result.failed()
        assert not self.locks.lock("k").locked()
        return result.result


@pytest.mark.parametrize("policy", ["retry", "wait", "park", "reject", "replace"])
@pytest.mark.parametrize("max_wait", [None, 60])
def test_a_nested_eager_task_of_the_same_key(policy: str, max_wait: float | None) -> None:
    eager = Eager(lock_on_contention=policy, lock_max_wait=max_wait)
    error = eager.error(lambda: eager.inner.apply().get())
    assert NESTED in str(error)
    assert isinstance(error, LockError)
    assert not isinstance(error, LockContended)
    assert error.key == "k"


@pytest.mark.parametrize("scope", ["while_executing", "until_executed"])
def test_a_nested_block(scope: str) -> None:
    def body() -> None:
        assert current_lease().held  # type: ignore[union-attr]
        with eager.locks.lock("k"):
            pytest.fail("it was entered")

    eager = Eager(lock_scope=scope)
    assert NESTED in str(eager.error(body))


def test_a_nested_task_of_another_key_runs_and_what_has_room_too() -> None:
    eager = Eager(lock_limit=2)
    assert eager.outer.apply((lambda: eager.inner.apply().get(),)).get() == "ran"


def test_a_key_that_another_holds_is_no_nested_one() -> None:
    def body() -> None:
        eager.locks.lock("other").acquire(timeout=0.05)

    eager = Eager()
    lease = eager.locks.lock("other").acquire()
    assert isinstance(eager.error(body), LockTimeout)
    lease.release()
