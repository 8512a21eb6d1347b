"""Options that have no effect: refused where the task is made, and by a worker that starts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task, _state, shared_task

from celery_locks import LockConfigError, LockContended, LockedTask, single_instance
from celery_locks.settings import SCOPES
from celery_locks.tasks.worker import LocksStep
from celery_locks.testing.local import NodeFailed
from tests.support.celery_worker import Worker

CALL = {"call": "skip"}
BOTH = {"call": "skip", "run": "park"}
#: Finds the error, with the task that it is about.
REFUSED = r"^one: on_contention=\{'call': 'skip'.* has no effect at the call with scope='while_executing'"
Make = Callable[[Celery, dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def no_other_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every app gets the shared tasks of all others: here those of Celery alone, and other tests get none of these."""
    celerys = {callback for callback in _state._on_app_finalizers if callback.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", celerys)
    monkeypatch.setattr(_state, "_get_active_apps", lambda: ())


@pytest.fixture
def app() -> Iterator[Celery]:
    name = uuid.uuid4().hex
    app = Celery(name, broker="memory://", set_as_current=False)
    app.conf.locks_url = f"memory://{name}"
    app.conf.task_default_queue = name  # the broker is one for all tests of this process
    yield app
    app.close()


def body(shop: int) -> int:
    return shop


def unmarked() -> Callable[[int], int]:
    """A body of its own for each task: the decorator marks it."""

    def body(shop: int) -> int:
        return shop

    return body


def base_with(**attributes: Any) -> type[LockedTask]:
    return type("Base", (LockedTask,), {"abstract": True, **attributes})


def attributes(options: dict[str, Any]) -> dict[str, Any]:
    return {f"lock_{name}": value for name, value in options.items()}


def class_based(app: Celery, base: type[Task], **members: Any) -> Any:
    members = {"name": "one", "run": lambda self, shop: shop, **members}
    return app.register_task(type("One", (base,), members)())


def annotated(app: Celery, options: dict[str, Any]) -> Any:
    app.conf.task_annotations = {"one": attributes(options)}
    return app.task(base=LockedTask, name="one", shared=False)(body)


#: Ways to say the same.
WAYS: dict[str, Make] = {
    "options of app.task": lambda app, options: app.task(
        base=LockedTask, name="one", shared=False, **attributes(options)
    )(body),
    "below app.task": lambda app, options: app.task(name="one", shared=False)(single_instance(**options)(unmarked())),
    "above app.task": lambda app, options: single_instance(**options)(app.task(name="one", shared=False)(body)),
    "attributes of a class": lambda app, options: class_based(app, LockedTask, **attributes(options)),
    "attributes of its base": lambda app, options: class_based(app, base_with(**attributes(options))),
    "attributes of a base": lambda app, options: app.task(
        base=base_with(**attributes(options)), name="one", shared=False
    )(body),
    "a decorated class": lambda app, options: app.register_task(
        single_instance(**options)(type("One", (Task,), {"name": "one", "run": lambda self, shop: shop}))()
    ),
    "task_annotations": annotated,
}


@pytest.mark.parametrize("way", WAYS)
class TestACallSideThatTheScopeLacks:
    @pytest.mark.parametrize("policies", [CALL, BOTH], ids=["call", "both"])
    def test_it_is_refused_when_the_task_is_made(self, app: Celery, way: str, policies: Any) -> None:
        with pytest.raises(LockConfigError, match=REFUSED):
            WAYS[way](app, {"on_contention": policies}).name  # noqa: B018 - tasks are made when they are looked at

    def test_it_is_refused_with_a_scope_of_the_app(self, app: Celery, way: str) -> None:
        app.conf.locks_scope = "while_executing"
        with pytest.raises(LockConfigError, match=REFUSED):
            WAYS[way](app, {"on_contention": CALL}).name  # noqa: B018

    def test_the_scope_of_the_task_counts_before_that_of_the_app(self, app: Celery, way: str) -> None:
        app.conf.locks_scope = "until_executed"
        with pytest.raises(LockConfigError, match="no effect at the call"):
            WAYS[way](app, {"on_contention": CALL, "scope": "while_executing"}).name  # noqa: B018

    def test_the_run_side_alone_is_taken(self, app: Celery, way: str) -> None:
        assert WAYS[way](app, {"on_contention": {"run": "skip"}}).lock_options.on_contention == {"run": "skip"}

    @pytest.mark.parametrize("scope", SCOPES[1:])
    def test_a_scope_that_begins_at_the_call_has_both(self, app: Celery, way: str, scope: str) -> None:
        """A run finds its key held in each of them: where its message came without a lease, or its lease had ended."""
        task = WAYS[way](app, {"on_contention": BOTH, "scope": scope})
        assert task.lock_options.on_contention == BOTH

    @pytest.mark.parametrize("scope", SCOPES[1:])
    def test_such_a_scope_of_the_app_has_both(self, app: Celery, way: str, scope: str) -> None:
        app.conf.locks_scope = scope
        assert WAYS[way](app, {"on_contention": BOTH}).lock_options.scope == scope

    def test_it_has_no_effect_in_a_setting_of_the_app_and_is_allowed_there(self, app: Celery, way: str) -> None:
        app.conf.locks_on_contention = BOTH
        task = WAYS[way](app, {"ttl": 5})
        assert (task.lock_options.on_contention, task.lock_options.scope) == (BOTH, "while_executing")


def test_a_base_may_have_both_for_tasks_of_various_scopes(app: Celery) -> None:
    base = base_with(lock_on_contention=BOTH)
    once = app.task(base=base, lock_scope="until_executed", name="once", shared=False)(body)
    assert once.lock_options.on_contention == BOTH
    with pytest.raises(LockConfigError, match=REFUSED):
        app.task(base=base, name="one", shared=False)(body).name  # noqa: B018


def test_a_base_may_leave_its_scope_to_its_tasks(app: Celery) -> None:
    base = base_with(lock_on_contention=BOTH, lock_scope="while_executing")
    task = app.task(base=base, lock_scope="until_expired", name="once", shared=False)(body)
    assert task.lock_options.on_contention == BOTH


def test_the_decorator_alone_refuses_what_it_is_given_whole() -> None:
    with pytest.raises(LockConfigError, match=r"^on_contention=.* no effect at the call"):
        single_instance(on_contention=CALL, scope="while_executing")


def test_a_refused_task_is_refused_again_at_each_call(app: Celery) -> None:
    task = single_instance(on_contention=CALL)(app.task(name="one", shared=False)(body))
    for _ in range(3):
        with pytest.raises(LockConfigError, match="no effect at the call"):
            task.delay(7)


def test_celerys_own_tasks_are_not_asked(app: Celery) -> None:
    app.Task = base_with(lock_on_contention=BOTH)
    app.task(lock_scope="until_executed", name="once", shared=False)(body)
    app.finalize()
    assert isinstance(app.tasks["celery.group"], LockedTask)


def test_a_decorator_above_counts_for_a_policy_that_was_looked_at(app: Celery) -> None:
    task = app.task(base=LockedTask, name="one", shared=False)(body)
    before = task.lock_run_policy
    assert type(single_instance(on_contention="park")(task).lock_run_policy) is not type(before)


class TestSharedTasks:
    @pytest.mark.parametrize("way", ["options", "below", "above"])
    def test_an_error_ends_the_making_of_the_app(self, app: Celery, way: str) -> None:
        if way == "options":
            shared_task(base=LockedTask, name="one", lock_on_contention=CALL)(body)
        elif way == "below":
            shared_task(name="one")(single_instance(on_contention=CALL)(unmarked()))
        else:
            single_instance(on_contention=CALL)(shared_task(name="one")(body))
        with pytest.raises(LockConfigError, match=REFUSED):
            app.finalize()

    def test_a_decorator_above_brings_the_workers_part(self, app: Celery) -> None:
        single_instance(key="<shop>")(shared_task(name="one")(body))
        app.finalize()
        assert isinstance(app.tasks["one"], LockedTask)
        assert LocksStep in app.steps["worker"]

    def test_an_error_leaves_no_other_task_unlocked(self, app: Celery) -> None:
        """One wrong callback, pending task and lock; in a process that goes on, as a web process does."""
        shared_task(base=LockedTask, name="wrong", lock_on_contention=CALL)(unmarked())
        single_instance(on_contention=CALL)(shared_task(name="bad")(unmarked()))
        single_instance(on_contention=CALL)(app.task(name="bad own", shared=True)(unmarked()))
        good = [f"good {number}" for number in range(9)]  # Celery takes them in no order
        for name in good:
            single_instance(**ONCE)(shared_task(name=name)(unmarked()))
        single_instance(**ONCE)(app.task(name="good own", shared=True)(unmarked()))
        with pytest.raises(LockConfigError):
            app.finalize()
        app.finalize()
        for name in [*good, "good own"]:
            task = app.tasks[name]
            assert isinstance(task, LockedTask)
            task.delay(7)
            with pytest.raises(LockContended):
                task.delay(7)
        for name in ("wrong", "bad", "bad own"):
            assert_refuses(app.tasks[name])

    def test_an_error_in_one_finalized_app_leaves_no_other_unlocked(
        self, app: Celery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = Celery("other", broker="memory://", set_as_current=False)
        other.conf.locks_scope = "until_executed"
        monkeypatch.setattr(_state, "_get_active_apps", lambda: (app, other))
        app.finalize(), other.finalize()
        shared = shared_task(name="one")(unmarked())
        with pytest.raises(LockConfigError, match=REFUSED):
            single_instance(on_contention=CALL)(shared)
        assert other.tasks["one"].lock_options.on_contention == CALL
        assert_refuses(app.tasks["one"])
        late = Celery("late", broker="memory://", set_as_current=False)
        with pytest.raises(LockConfigError, match=REFUSED):
            late.finalize()
        assert_refuses(late.tasks["one"])
        other.close(), late.close()


ONCE: Any = {"scope": "until_executed", "on_contention": {"call": "raise"}}


def assert_refuses(task: Any) -> None:
    for use in (lambda: task.delay(7), lambda: task.s(7).apply_async(), lambda: task.apply((7,), throw=True)):
        for _ in range(2):
            with pytest.raises(LockConfigError):
                use()


def unlockable(cls: type[Task]) -> type[Task]:
    """A class of tasks that can't be locked at all: the class of a locked one can't be made of it."""
    cls.lock_colour = "red"
    return cls


class TestWhatCantBeLockedRefuses:
    """Also where the error came before anything of the task was locked, and was caught."""

    def test_below(self, app: Celery) -> None:
        task = app.task(base=unlockable(type("Base", (Task,), {})), name="one", shared=False)(
            single_instance(key="<shop>")(unmarked())
        )
        with pytest.raises(LockConfigError, match="lock_colour"):
            app.finalize()
        assert_refuses(app.tasks["one"])
        assert_refuses(task)

    @pytest.mark.parametrize("options", [{}, {"autoretry_for": (ValueError,)}], ids=["", "with autoretry"])
    def test_above(self, app: Celery, options: dict[str, Any]) -> None:
        base = unlockable(type("Base", (Task,), {}))
        task = single_instance(key="<shop>")(app.task(base=base, name="one", shared=False, **options)(unmarked()))
        with pytest.raises(LockConfigError, match="lock_colour"):
            task.name  # noqa: B018
        assert task.name == "one"
        assert_refuses(task)
        with pytest.raises(LockConfigError):
            task(7)

    def test_above_one_that_exists(self, app: Celery) -> None:
        task = app.task(base=unlockable(type("Base", (Task,), {})), name="one", shared=False)(unmarked())
        app.finalize()
        with pytest.raises(LockConfigError, match="lock_colour"):
            single_instance(key="<shop>")(task)
        assert_refuses(task)

    def test_above_an_instance(self, app: Celery) -> None:
        cls = unlockable(type("One", (Task,), {"name": "one", "run": lambda self, shop: shop}))
        task = app.register_task(cls())
        with pytest.raises(LockConfigError, match="lock_colour"):
            single_instance(key="<shop>")(task)
        assert_refuses(task)

    def test_a_class(self, app: Celery) -> None:
        cls = single_instance(on_contention=CALL)(type("One", (Task,), {"name": "one", "run": lambda self, shop: shop}))
        with pytest.raises(LockConfigError, match=REFUSED):
            app.register_task(cls())
        assert_refuses(app.tasks["one"])


#: One for each place where Celery might swallow the error; the rest is above.
SITES = {
    "options": '@app.task(base=LockedTask, name="one", lock_on_contention={"call": "skip"})',
    "above": '@single_instance(on_contention={"call": "skip"})\n@app.task(name="one")',
    "shared, above": '@single_instance(on_contention={"call": "skip"})\n@shared_task(name="one")',
}


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
def test_a_worker_does_not_start_and_shows_why(redis_url: str, tmp_path: Path, site: str) -> None:
    (tmp_path / "shop_app.py").write_text(
        "from celery import Celery, shared_task\n"
        "from celery_locks import LockedTask, single_instance\n"
        f"app = Celery('shop_app', broker={redis_url!r}, backend={redis_url!r})\n"
        f"{SITES[site]}\n"
        "def one(shop): return shop\n"
    )
    with pytest.raises(NodeFailed) as caught:
        Worker("shop_app", pool="solo", cwd=tmp_path)
    assert "LockConfigError: one: on_contention={'call': 'skip'} has no effect at the call" in str(caught.value)
    assert " ready." not in str(caught.value).partition("The end of its log:")[2]
