"""Options that have no effect: refused where the task is made, and by a worker that starts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task, _state, shared_task

from celery_locks import (
    Backoff,
    LockConfigError,
    LockContended,
    LockedTask,
    LockError,
    LockKeyError,
    Locks,
    single_instance,
)
from celery_locks.settings import SCOPES
from celery_locks.tasks.messages.header import HEADER
from celery_locks.tasks.settings_check import check_settings
from celery_locks.tasks.worker.bootsteps import LocksStep
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
    def test_a_scope_of_the_app_with_two_sides_has_both_policies(self, app: Celery, way: str, scope: str) -> None:
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
    before = task.lock_spec.run_policy
    assert type(single_instance(on_contention="park")(task).lock_spec.run_policy) is not type(before)


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
    """A class of tasks that can't be locked at all: it has an attribute that this library needs."""
    cls.lock_spec = "red"
    return cls


class TestWhatCantBeLockedRefuses:
    """Also where the error came before anything of the task was locked, and was caught."""

    def test_below(self, app: Celery) -> None:
        task = app.task(base=unlockable(type("Base", (Task,), {})), name="one", shared=False)(
            single_instance(key="<shop>")(unmarked())
        )
        with pytest.raises(LockConfigError, match="lock_spec"):
            app.finalize()
        assert_refuses(app.tasks["one"])
        assert_refuses(task)

    @pytest.mark.parametrize("options", [{}, {"autoretry_for": (ValueError,)}], ids=["", "with autoretry"])
    def test_above(self, app: Celery, options: dict[str, Any]) -> None:
        base = unlockable(type("Base", (Task,), {}))
        task = single_instance(key="<shop>")(app.task(base=base, name="one", shared=False, **options)(unmarked()))
        with pytest.raises(LockConfigError, match="lock_spec"):
            task.name  # noqa: B018
        assert task.name == "one"
        assert_refuses(task)
        with pytest.raises(LockConfigError):
            task(7)

    def test_above_one_that_exists(self, app: Celery) -> None:
        task = app.task(base=unlockable(type("Base", (Task,), {})), name="one", shared=False)(unmarked())
        app.finalize()
        with pytest.raises(LockConfigError, match="lock_spec"):
            single_instance(key="<shop>")(task)
        assert_refuses(task)

    def test_above_an_instance(self, app: Celery) -> None:
        cls = unlockable(type("One", (Task,), {"name": "one", "run": lambda self, shop: shop}))
        task = app.register_task(cls())
        with pytest.raises(LockConfigError, match="lock_spec"):
            single_instance(key="<shop>")(task)
        assert_refuses(task)

    def test_a_class(self, app: Celery) -> None:
        cls = single_instance(on_contention=CALL)(type("One", (Task,), {"name": "one", "run": lambda self, shop: shop}))
        with pytest.raises(LockConfigError, match=REFUSED):
            app.register_task(cls())
        assert_refuses(app.tasks["one"])


class TestOptionsOfTheLine:
    """Under most policies no task stands in line."""

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("policy", ["retry", "wait", "skip", "reject", "raise", "replace", {"run": "skip"}])
    @pytest.mark.parametrize("option", [{"max_waiters": 5}, {"park_safety_copy": True}], ids=str)
    def test_they_are_refused_without_a_line(self, app: Celery, way: str, policy: Any, option: dict[str, Any]) -> None:
        with pytest.raises(LockConfigError, match=rf"^one: {next(iter(option))}=.* no effect with on_contention="):
            WAYS[way](app, {"on_contention": policy, **option}).name  # noqa: B018

    @pytest.mark.parametrize("way", WAYS)
    def test_they_are_refused_with_the_default_policy(self, app: Celery, way: str) -> None:
        with pytest.raises(LockConfigError, match="max_waiters=5 has no effect with on_contention='retry'"):
            WAYS[way](app, {"max_waiters": 5}).name  # noqa: B018

    @pytest.mark.parametrize("way", WAYS)
    def test_they_are_taken_with_a_line_of_the_app(self, app: Celery, way: str) -> None:
        app.conf.locks_on_contention = "park"
        assert WAYS[way](app, {"max_waiters": 5}).lock_options.max_waiters == 5

    def test_they_are_taken_with_a_policy_of_the_users_own(self, app: Celery) -> None:
        def own(contention: Any) -> Any:
            return contention.wait()

        assert WAYS["below app.task"](app, {"max_waiters": 5, "on_contention": own}).lock_options.max_waiters == 5

    def test_they_are_settings_for_the_tasks_that_park(self, app: Celery) -> None:
        app.conf.update(locks_max_waiters=5, locks_park_safety_copy=True)
        assert WAYS["below app.task"](app, {"on_contention": "skip"}).lock_options.max_waiters == 5

    def test_a_base_may_have_them_for_those_of_its_tasks_that_park(self, app: Celery) -> None:
        base = base_with(lock_max_waiters=5)
        app.task(base=base, lock_on_contention="park", name="parks", shared=False)(body).name  # noqa: B018
        skips = app.task(base=base, lock_on_contention="skip", name="skips", shared=False)(unmarked())
        assert skips.lock_options.on_contention == "skip"
        with pytest.raises(LockConfigError, match="no effect"):
            app.task(base=base, name="one", shared=False)(unmarked()).name  # noqa: B018


class TestAnnotations:
    def test_each_option_counts(self, app: Celery) -> None:
        app.conf.task_annotations = {
            "one": {"lock_key": "annotated:<shop>", "lock_ttl": 77},
            "off": {"lock_enabled": False},
        }
        one = app.task(base=LockedTask, lock_key="own:<shop>", name="one", shared=False)(body)
        off = app.task(name="off", shared=False)(single_instance(unmarked()))
        assert (one.lock_key_for(7), one.lock_options.ttl) == ("annotated:7", 77)
        assert (one.locks_runs(), off.locks_runs()) == (True, False)

    @pytest.mark.parametrize(
        ("options", "says"),
        [({"lock_tll": 5}, "did you mean 'lock_ttl'"), ({"lock_ttl": -1}, "ttl"), ({"lock_key": "<shp>"}, "<shop>")],
    )
    def test_a_wrong_one_is_refused(self, app: Celery, options: dict[str, Any], says: str) -> None:
        app.conf.task_annotations = {"one": options}
        with pytest.raises(LockError, match=says):
            app.task(base=LockedTask, name="one", shared=False)(body).name  # noqa: B018


class TestAttributesThatAreSetLater:
    def test_they_take_effect(self, app: Celery) -> None:
        task = app.task(base=LockedTask, name="one", shared=False)(body)
        assert task.lock_options.ttl == 30
        task.lock_ttl, task.lock_key, task.lock_enabled = 5, "later:<shop>", False
        assert (task.lock_options.ttl, task.lock_spec.terms.ttl, task.lock_key_for(7)) == (5, 5, "later:7")
        assert not task.locks_runs()
        del task.lock_ttl
        assert task.lock_options.ttl == 30

    def test_those_of_the_class_and_its_bases_too(self, app: Celery) -> None:
        base = base_with(lock_ttl=9)
        task = app.task(base=base, name="one", shared=False)(body)
        assert task.lock_options.ttl == 9
        base.lock_ttl = 10
        assert task.lock_options.ttl == 10
        type(task._get_current_object()).lock_key = "later:<shop>"
        assert task.lock_key_for(7) == "later:7"
        type(task._get_current_object()).lock_limit = 0
        with pytest.raises(LockConfigError, match="limit"):
            _ = task.lock_options

    @pytest.mark.parametrize(
        ("attribute", "value", "says"),
        [
            ("lock_ttl", -1, "ttl"),
            ("lock_tll", 5, "did you mean 'lock_ttl'"),
            ("lock_key", "<shp>", "did you mean <shop>"),
            ("lock_max_waiters", 5, "no effect"),
            ("lock_renew", 20, "15"),
        ],
    )
    def test_a_wrong_one_is_refused_and_changes_nothing(
        self, app: Celery, attribute: str, value: Any, says: str
    ) -> None:
        task = app.task(base=LockedTask, name="one", shared=False)(body)
        before = task.lock_options
        with pytest.raises(LockError, match=says):
            setattr(task, attribute, value)
        assert not hasattr(task, attribute)
        assert task.lock_options == before
        assert task.lock_key_for(7) == "one(shop=7)"


class TestOptionsOfOneCall:
    @pytest.fixture
    def task(self, app: Celery) -> Any:
        app.conf.result_backend = "cache+memory://"
        return app.task(base=LockedTask, lock_key="s:<shop>", lock_scope="until_executed", name="one", shared=False)(
            body
        )

    def ttl(self, app: Celery, key: str) -> float | None:
        info = Locks.from_app(app).info(key)
        return info.holders[0].expires_in if info is not None and info.holders else None

    @pytest.mark.parametrize("send", ["apply_async", "set", "chain"])
    def test_a_ttl(self, app: Celery, task: Any, send: str) -> None:
        if send == "apply_async":
            task.apply_async((7,), lock_ttl=timedelta(seconds=5))
        elif send == "set":
            task.s(7).set(lock_ttl=5).apply_async()
        else:
            (task.si(7).set(lock_ttl=5) | task.si(8)).apply_async()
        task.delay(9)
        assert 0 < (self.ttl(app, "s:7") or 0) <= 5
        assert (self.ttl(app, "s:9") or 0) > 20
        assert task.lock_options.ttl == 30

    def test_a_key_a_scope_a_policy_and_the_switch(self, app: Celery, task: Any) -> None:
        first = task.delay(7)
        assert task.apply_async((7,)).id == first.id
        assert task.apply_async((7,), lock_key="other:<shop>").id != first.id
        assert self.ttl(app, "other:7")
        assert task.apply_async((7,), lock_enabled=False).id != first.id
        assert task.apply_async((7,), lock_scope="while_executing").id != first.id
        with pytest.raises(LockContended):
            task.apply_async((7,), lock_on_contention="raise")
        task.apply_async((8,), lock_scope="while_executing")
        assert self.ttl(app, "s:8") is None

    def test_the_message_carries_them(self, app: Celery, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[dict[str, Any]] = []
        monkeypatch.setattr(app, "send_task", lambda *args, **options: sent.append(options))
        options = {"lock_ttl": timedelta(seconds=5), "lock_backoff": Backoff(cap=9), "lock_scope": "while_executing"}
        task.apply_async((7,), **options, headers={"mine": 1})
        [message] = sent
        ours = message["headers"][HEADER]
        assert ours["id"] == message["task_id"]
        assert message["headers"]["mine"] == 1
        assert not [name for name in message if name.startswith("lock_")]
        assert ours["options"] == json.loads(json.dumps(ours["options"]))
        spec = task.lock_spec.with_options(ours["options"])
        assert (spec.terms.ttl, spec.options.backoff, spec.scope.call) == (5, Backoff(cap=9), False)

    @pytest.mark.parametrize(
        ("option", "value", "says"),
        [
            ("lock_tll", 5, "did you mean 'lock_ttl'"),
            ("lock_ttl", -1, "ttl"),
            ("lock_key", str, "can't be set for one call"),
            ("lock_on_contention", {"run": print}, "can't be set for one call"),
            ("lock_key", "<shp>", "did you mean <shop>"),
            ("lock_max_waiters", 5, "no effect"),
            ("lock_limit", 0, "limit"),
        ],
    )
    @pytest.mark.parametrize("send", ["apply_async", "apply"])
    def test_a_wrong_one_is_refused(
        self, app: Celery, task: Any, send: str, option: str, value: Any, says: str
    ) -> None:
        with pytest.raises(LockError, match=says):
            getattr(task, send)((7,), **{option: value})
        assert self.ttl(app, "s:7") is None

    def test_an_option_that_only_one_side_has(self, app: Celery, task: Any) -> None:
        with pytest.raises(LockConfigError, match="no effect at the call"):
            task.apply_async((7,), lock_scope="while_executing", lock_on_contention={"call": "skip"})


def test_the_key_may_be_positional(app: Celery) -> None:
    task = app.task(name="one", shared=False)(single_instance("user:<shop>", limit=3)(unmarked()))
    assert (task.lock_key_for(7), task.lock_options.limit) == ("user:7", 3)
    with pytest.raises(LockConfigError, match="two keys"):
        single_instance("user:<shop>", key="other")


FOREIGN_PLACEHOLDERS = [
    "{shop}",
    "u:{shop.id}:{x}",
    "{shop[id]!r:>3}",
    "{{ shop }}",
    "%(shop)s",
    "$shop",
    "${shop}",
    "{}",
    "u:%s",
]


@pytest.mark.parametrize("key", FOREIGN_PLACEHOLDERS)
@pytest.mark.parametrize("way", ["below app.task", "options of app.task"])
def test_a_key_in_another_languages_format_is_refused(app: Celery, way: str, key: str) -> None:
    with pytest.raises(LockKeyError, match="stands for no argument here"):
        WAYS[way](app, {"key": key}).name  # noqa: B018


@pytest.mark.parametrize("key", ["nightly", "{nightly}", "100%", "50%discount", "$5", '{"a": 1}', "%(other)s"])
def test_a_key_that_is_plain_text_stays(app: Celery, key: str) -> None:
    assert WAYS["below app.task"](app, {"key": key}).lock_key_for(7) == key


class TestNamesOfSettings:
    @pytest.mark.parametrize("name", ["CELERY_LOCKS_TLL", "CELERY_LOCKS_KEY"])
    def test_a_misspelt_one_with_a_namespace_is_refused(self, name: str) -> None:
        app = Celery(set_as_current=False)
        app.config_from_object(type("Settings", (), {name: 60, "CELERY_LOCKS_TTL": 60}), namespace="CELERY")
        assert app.conf.locks_ttl == 60
        with pytest.raises(LockConfigError, match=f"there is no setting {name}"):
            check_settings(app.conf)

    def test_one_that_is_not_read_is_refused(self) -> None:
        app = Celery(set_as_current=False)
        app.config_from_object(type("Settings", (), {"LOCKS_TTL": 60}))
        with pytest.raises(LockConfigError, match="LOCKS_TTL is not read: write locks_ttl"):
            check_settings(app.conf)

    def test_right_ones_are_taken(self) -> None:
        app = Celery(set_as_current=False)
        app.config_from_object(
            type("Settings", (), {"CELERY_LOCKS_TTL": 60, "LOCKS_OF_ANOTHER": 1}), namespace="CELERY"
        )
        app.conf.locks_prefix = "p"
        check_settings(app.conf)
        app.conf.locks_tll = 1
        with pytest.raises(LockConfigError, match="locks_tll"):
            check_settings(app.conf)


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
