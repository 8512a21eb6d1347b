"""A decorated task is locked, or refused: when it is defined, or when a worker starts."""

from __future__ import annotations

import functools
import gc
import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from celery import Celery, Task, _state
from celery.concurrency import prefork, solo

from celery_locks import LockConfigError, LockedTask, Locks, current_lease, single_instance
from celery_locks.tasks import marks
from celery_locks.tasks.worker import checks
from celery_locks.testing.local import NodeFailed
from tests.support.celery_worker import Worker


@pytest.fixture(autouse=True)
def no_other_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    celerys = {callback for callback in _state._on_app_finalizers if callback.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", celerys)
    monkeypatch.setattr(_state, "_get_active_apps", lambda: ())


def new_app() -> Celery:
    app = Celery(uuid.uuid4().hex, broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.locks_url = f"memory://{uuid.uuid4().hex}"
    return app


@pytest.fixture
def app() -> Iterator[Celery]:
    app = new_app()
    yield app
    app.close()


def held(*args: Any) -> bool:
    return current_lease() is not None


# Marks that no task shows ---------------------------------------------------------------------------------------------


def test_run_of_a_class_is_refused(app: Celery) -> None:
    class Sync(Task):
        name = "sync"

        @single_instance(key="u:<user_id>")
        def run(self, user_id: int) -> bool:
            return held()

    with pytest.raises(LockConfigError, match=r"run\(\) of .*Sync .*test_marks:.*Sync\.run:\d+.*decorate the class"):
        app.register_task(Sync())
    assert "sync" not in app.tasks
    with pytest.raises(LockConfigError, match=r"run\(\) of .*Sync"):
        single_instance(Sync)


def test_run_of_a_locked_class_is_refused() -> None:
    with pytest.raises(LockConfigError, match=r"run\(\) of .*Sync"):

        class Sync(LockedTask):
            @single_instance(key="u:<user_id>")
            def run(self, user_id: int) -> bool:
                return held()


def without_wraps(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Holder:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def call(self, user_id: int) -> Any:
        return self.function(user_id)


HIDING = {
    "a closure": without_wraps,
    "two closures": lambda function: without_wraps(without_wraps(function)),
    "a partial in a closure": lambda function: without_wraps(functools.partial(function)),
    "wraps of another": lambda function: functools.wraps(held)(without_wraps(function)),
    "a method in a closure": lambda function: without_wraps(Holder(function).call),
}


def fresh() -> Callable[..., Any]:
    def sync(user_id: int) -> bool:
        return held()

    return sync


@pytest.mark.parametrize("hide", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("options", [{}, {"base": LockedTask, "lock_key": str}], ids=str)
def test_a_hidden_mark_is_found(app: Celery, hide: Any, options: dict[str, Any]) -> None:
    app.task(name="sync", shared=False, **options)(hide(single_instance(key="u:<user_id>")(fresh())))
    app.finalize()
    with pytest.raises(LockConfigError, match=r"the task sync is not locked .*test_marks:fresh\.<locals>\.sync:\d+"):
        marks.check_app(app)


def test_a_marked_function_that_another_task_calls_is_no_fault(app: Celery) -> None:
    sync = single_instance(fresh())

    def both(user_id: int) -> Any:
        return sync(user_id)

    app.task(name="sync", shared=False)(sync)
    app.task(name="both", shared=False)(both)
    app.finalize()
    marks.check_app(app)


def test_a_mark_that_locks_in_another_app_only_is_found_here(app: Celery) -> None:
    sync, other = single_instance(fresh()), new_app()
    other.task(name="sync", shared=False)(sync)
    app.task(name="sync", shared=False)(without_wraps(sync))
    app.finalize(), other.finalize()
    marks.check_app(other)
    with pytest.raises(LockConfigError, match="the task sync is not locked"):
        marks.check_app(app)


def test_a_mark_without_a_task_is_reported_and_blocks_no_worker(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Callable[..., Any]:
        def unused_body() -> None: ...

        return single_instance(unused_body)

    function = make()
    app.finalize()
    with caplog.at_level(logging.WARNING):
        marks.check_app(app)
    assert "unused_body" in caplog.text
    del function
    gc.collect()
    caplog.clear()
    marks.check_app(app)
    assert "unused_body" not in caplog.text


def test_what_takes_no_attributes_can_not_be_marked() -> None:
    with pytest.raises(LockConfigError, match="takes no attributes"):
        single_instance(key=lambda *args: "k")(Holder(fresh()).call)


# Bodies that Celery does not run as run() -----------------------------------------------------------------------------


def test_a_class_with_call_alone_is_refused(app: Celery) -> None:
    class Sync(LockedTask):
        name = "sync"

        def __call__(self, user_id: int) -> bool:
            return held()

    with pytest.raises(LockConfigError, match=r"__call__\(\) in place of run\(\)"):
        app.register_task(Sync())

    class Plain(Task):
        def __call__(self, user_id: int) -> bool:
            return held()

    with pytest.raises(LockConfigError, match=r"__call__\(\) in place of run\(\)"):
        single_instance(Plain)


def test_a_call_that_never_runs_the_body_is_refused(app: Celery) -> None:
    class Base(LockedTask):
        def __call__(self, *args: Any) -> bool:
            return held()

    with pytest.raises(LockConfigError, match=r"Celery runs __call__\(\)"):
        app.task(base=Base, name="sync", shared=False)(fresh()).name  # noqa: B018


@pytest.mark.parametrize("way", ["super", "run"])
def test_a_call_that_runs_the_body_is_taken(app: Celery, way: str) -> None:
    class BySuper(LockedTask):
        def __call__(self, *args: Any) -> Any:
            return super().__call__(*args)

    class ByRun(LockedTask):
        def __call__(self, *args: Any) -> Any:
            return self.run(*args)

    base = BySuper if way == "super" else ByRun
    task = app.task(base=base, name="sync", shared=False)(fresh())
    assert task.apply((7,)).result is True


def test_a_body_from_a_plain_base_is_locked(app: Celery) -> None:
    class Body:
        def run(self, user_id: int) -> bool:
            return held()

    class Sync(Body, LockedTask):
        name = "sync"

    assert app.register_task(Sync()).apply((7,)).result is True


def test_a_body_that_an_annotation_wraps_is_locked(app: Celery) -> None:
    def around(body: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            return "around", body(*args, **kwargs)

        return run

    app.conf.task_annotations = {"sync": {"@run": around}}

    @app.task(bind=True, base=LockedTask, lock_key="u:<user_id>", name="sync", shared=False)
    def sync(self: Any, user_id: int) -> Any:
        return self.lease and self.lease.key

    assert sync.apply((7,)).result == ("around", "u:7")


# Stacked decorators ---------------------------------------------------------------------------------------------------


def twice_below(app: Celery) -> Any:
    return app.task(name="t", shared=False)(single_instance(limit=2)(single_instance(key="u:<user_id>")(fresh())))


def twice_below_with_another_between(app: Celery) -> Any:
    inner = single_instance(key="u:<user_id>")(fresh())
    return app.task(name="t", shared=False)(single_instance(functools.wraps(inner)(without_wraps(inner))))


def twice_above(app: Celery) -> Any:
    return single_instance(key="u:<user_id>")(single_instance(limit=2)(app.task(name="t", shared=False)(fresh())))


def below_and_above(app: Celery) -> Any:
    return single_instance(key="u:<user_id>")(app.task(name="t", shared=False)(single_instance(limit=2)(fresh())))


def twice_above_a_class(app: Celery) -> Any:
    return single_instance(limit=2)(single_instance(type("T", (Task,), {"name": "t", "run": lambda self, a: a})))


def above_a_class_and_its_task(app: Celery) -> Any:
    cls = single_instance(type("T", (Task,), {"name": "t", "run": lambda self, a: a}))
    return single_instance(limit=2)(app.register_task(cls()))


@pytest.mark.parametrize(
    "stack",
    [
        twice_below,
        twice_below_with_another_between,
        twice_above,
        below_and_above,
        twice_above_a_class,
        above_a_class_and_its_task,
    ],
)
def test_two_decorators_are_refused(app: Celery, stack: Callable[[Celery], Any]) -> None:
    with pytest.raises(LockConfigError, match="two single_instance decorators"):
        stack(app).name  # noqa: B018


def test_a_decorator_replaces_options_of_a_base_class(app: Celery) -> None:
    class Base(LockedTask):
        lock_key = "base:<user_id>"
        lock_ttl = 77

    task = app.task(base=Base, name="t", shared=False)(single_instance(key="own:<user_id>")(fresh()))
    assert (task.lock_key_for(7), task.lock_options.ttl) == ("own:7", 77)


# More apps than one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finalized", [False, True], ids=["", "finalized"])
@pytest.mark.parametrize("name", [None, "sync"])
def test_above_locks_in_every_app(app: Celery, finalized: bool, name: str | None) -> None:
    if finalized:
        app.finalize()
    body, options = fresh(), {} if name is None else {"name": name}
    single_instance(key="u:<user_id>")(app.task(**options)(body))
    app.task(name="unlocked")(body)
    other = new_app()
    other.finalize(), app.finalize()
    for each in (app, other):
        task = each.tasks[name or f"{__name__}.sync"]
        assert task.apply((7,)).result is True
        assert task.lock_key_for(7) == "u:7"
        assert each.tasks["unlocked"].apply((7,)).result is False
    other.close()


def test_above_leaves_another_task_of_the_same_name_alone(app: Celery) -> None:
    single_instance(app.task(name="sync", shared=False)(fresh())).name  # noqa: B018
    other = new_app()
    other.task(name="sync", shared=False)(fresh()).name  # noqa: B018
    other.finalize()
    assert other.tasks["sync"].apply((7,)).result is False
    other.close()


# What belongs to the user's base class --------------------------------------------------------------------------------


class Own(Task):
    Strategy = "mine:strategy"
    lease = "house 7"
    lock_timeout = 30
    lock_colour = "red"
    lost: ClassVar[list[str]] = []

    def on_lock_lost(self, lease: Any, reason: str) -> None:
        self.lost.append(reason)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        return super().apply_async((*(args or ()), "added"), kwargs, **options)


@pytest.mark.parametrize("way", ["below", "above", "class"])
def test_a_base_class_keeps_what_is_its_own(app: Celery, way: str) -> None:
    def body(self: Any, a: Any, b: Any = None) -> Any:
        return self.lease, getattr(current_lease(), "key", None)

    decorate: Any = single_instance(key="<a>:<b>")
    if way == "class":
        task = app.register_task(decorate(type("T", (Own,), {"name": "t", "run": body}))())
    elif way == "below":
        task = app.task(base=Own, bind=True, name="t", shared=False)(decorate(body))
    else:
        task = decorate(app.task(base=Own, bind=True, name="t", shared=False)(body))
    assert (task.Strategy, task.lock_timeout, task.lock_colour) == ("mine:strategy", 30, "red")
    task.lock_timeout = 31
    app.conf.task_always_eager = True
    assert task.delay(1).get() == ("house 7", "1:added")
    task.on_lock_lost(None, "expired")
    assert Own.lost.pop() == "expired"


def test_a_base_class_that_ends_the_chain_of_init_subclass_is_locked_too(app: Celery) -> None:
    class Base(Task):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            """Calls no other."""

    task = app.task(base=Base, name="t", shared=False)(single_instance(fresh()))
    assert task.apply((7,)).result is True


@pytest.mark.parametrize("name", ["lock_spec", "lock_options", "lock_key_for", "locks_runs"])
def test_a_base_class_with_a_name_that_is_needed_is_refused(app: Celery, name: str) -> None:
    base = type("Base", (Task,), {name: None})
    with pytest.raises(LockConfigError, match=f"has an attribute {name}.*rename it"):
        app.task(base=base, name="t", shared=False)(single_instance(fresh())).name  # noqa: B018


def test_a_base_class_whose_calls_would_take_no_lease_is_refused(app: Celery) -> None:
    class Base(Task):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            return Task.apply_async(self, args, kwargs, **options)

    at_run = app.task(base=Base, name="at the run", shared=False)(single_instance(fresh()))
    assert at_run.apply((7,)).result is True
    with pytest.raises(LockConfigError, match=r"Base\.apply_async\(\) does not call super\(\)"):
        app.task(base=Base, name="t", shared=False)(single_instance(scope="until_executed")(fresh())).name  # noqa: B018


def test_a_misspelt_option_of_app_task_is_no_attribute_of_a_base(app: Celery) -> None:
    with pytest.raises(LockConfigError, match="lock_tll is no lock option; did you mean 'lock_ttl'"):
        app.task(name="t", lock_tll=5, shared=False)(single_instance(fresh())).name  # noqa: B018


# The worker's start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "concurrency", "autoscale", "refused"),
    [
        (prefork.TaskPool, 2, None, True),
        (prefork.TaskPool, 1, "4,1", True),
        (prefork.TaskPool, 1, None, False),
        (solo.TaskPool, 4, None, False),
    ],
)
def test_a_store_of_one_process_needs_a_pool_of_one(
    app: Celery, pool: type, concurrency: int, autoscale: str | None, refused: bool
) -> None:
    worker = SimpleNamespace(app=app, pool_cls=pool, concurrency=concurrency, autoscale=autoscale)
    locks = Locks.from_app(app)
    checks.check_start(worker, {"default": locks})  # no task is locked
    app.task(base=LockedTask, name="t", shared=False)(fresh())
    app.finalize()
    if not refused:
        checks.check_start(worker, {"default": locks})
        return
    with pytest.raises(LockConfigError, match=r"memory://.* the pool has \d"):
        checks.check_start(worker, {"default": locks})


HEAD = """
from celery import Celery, Task
from celery_locks import LockedTask, single_instance
app = Celery("shop_app", broker={url!r}, backend={url!r})
app.conf.locks_url = {url!r}
"""
HIDDEN = """
def timed(function):
    def wrapper(*args): return function(*args)
    return wrapper
@app.task(name="sync")
@timed
@single_instance(key="u:<user_id>")
def sync(user_id): ...
"""
RUN = """
class Sync(Task):
    name = "sync"
    @single_instance(key="u:<user_id>")
    def run(self, user_id): ...
app.register_task(Sync())
"""
MEMORY = """
app.conf.locks_url = "memory://"
@app.task(base=LockedTask)
def sync(user_id): ...
"""
SETTING = """
app = Celery("shop_app")
class Settings:
    CELERY_BROKER_URL = CELERY_LOCKS_URL = {url!r}
    CELERY_LOCKS_TLL = 60
app.config_from_object(Settings, namespace="CELERY")
@app.task(base=LockedTask)
def sync(user_id): ...
"""
ANNOTATED = """
app.conf.task_annotations = {{"sync": {{"lock_max_waiters": 5}}}}
@app.task(base=LockedTask, name="sync")
def sync(user_id): ...
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "pool", "says"),
    [
        (HIDDEN, "solo", "the task sync is not locked by the single_instance of shop_app:sync:"),
        (RUN, "solo", "single_instance has no effect on the run() of Sync"),
        (MEMORY, "prefork", "the store memory:// is in the memory of one process, and the pool has 2"),
        (SETTING, "solo", "there is no setting CELERY_LOCKS_TLL; did you mean 'CELERY_LOCKS_TTL'"),
        (ANNOTATED, "solo", "sync: max_waiters=5 has no effect with on_contention='retry'"),
    ],
    ids=["hidden", "run", "memory", "setting", "annotated"],
)
def test_promise_31_a_worker_does_not_start_and_shows_why(
    redis_url: str, tmp_path: Path, source: str, pool: str, says: str
) -> None:
    (tmp_path / "shop_app.py").write_text((HEAD + source).format(url=redis_url))
    with pytest.raises(NodeFailed) as caught:
        Worker("shop_app", pool=pool, concurrency=2, cwd=tmp_path)
    assert f"LockConfigError: {says}" in str(caught.value)


@pytest.mark.slow
def test_a_worker_of_threads_starts_with_a_store_of_its_own(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop_app.py").write_text((HEAD + MEMORY).format(url=redis_url))
    with Worker("shop_app", pool="threads", concurrency=2, cwd=tmp_path) as worker:
        assert " ready." in worker.logs()
