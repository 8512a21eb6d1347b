"""The patches of Celery and kombu, compared with the installed release, and the behaviour that relies on each."""

from __future__ import annotations

import inspect
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import celery
import pytest
from celery import Celery, _state
from celery.app.trace import build_tracer
from celery.local import PromiseProxy, Proxy
from pydantic import BaseModel

from celery_locks import LockConfigError, LockedTask, single_instance
from celery_locks.tasks import _celery_patches as patches
from celery_locks.tasks._celery_patches import PATCHES, PRIVATE_NAMES, Patch
from celery_locks.tasks.policies.deferral import Deferred


@pytest.fixture(autouse=True)
def no_other_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every app gets the shared tasks of all others: here those of Celery alone, and other tests get none of these."""
    celerys = {callback for callback in _state._on_app_finalizers if callback.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", celerys)
    monkeypatch.setattr(_state, "_get_active_apps", lambda: ())


@pytest.fixture
def app() -> Iterator[Celery]:
    name = uuid.uuid4().hex
    app = Celery(name, broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.locks_url = f"memory://{name}"
    yield app
    app.close()


def path_of(target: str) -> list[str]:
    return target.partition(":")[2].split(".")


def attribute_of(value: Any, name: str) -> Any:
    """The attribute itself, of a class as the class has it; or the item of a mapping."""
    if isinstance(value, Mapping):
        return value[name]
    return inspect.getattr_static(value, name) if inspect.isclass(value) else getattr(value, name)


def nothing() -> None:
    """The body of a task."""


@pytest.mark.parametrize("patch", PATCHES, ids=[patch.target for patch in PATCHES])
def test_the_patched_function_has_the_parameters_that_the_patch_relies_on(patch: Patch) -> None:
    try:
        original = inspect.unwrap(
            reduce(attribute_of, path_of(patch.target), import_module(patch.target.split(":")[0]))
        )
    except (ImportError, AttributeError, KeyError) as error:
        pytest.fail(
            f"Celery {celery.__version__} has no {patch.target} ({error!r}); it was patched because: {patch.why}"
        )
    parameters = tuple(inspect.signature(original, follow_wrapped=False).parameters)
    assert parameters == patch.parameters, (
        f"Celery {celery.__version__} has changed {patch.target}: read it again, adapt {patch.install.__name__}() in "
        f"celery_locks/tasks/_celery_patches.py, and then its row in PATCHES. It was patched because: {patch.why}"
    )


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_private_name_that_is_read_exists(name: str) -> None:
    try:
        reduce(attribute_of, path_of(name), import_module(name.split(":")[0]))
    except AttributeError:
        pytest.fail(f"Celery {celery.__version__} has no {name}, which celery_locks/tasks reads")


def test_every_replaced_function_is_replaced_once() -> None:
    for name in ("add_autoretry_behaviour", "_announce_app_finalized"):
        replacement = getattr(patches.base, name)
        assert replacement.__code__.co_filename == patches.__file__
        assert not hasattr(replacement.__wrapped__, "__wrapped__"), f"{name} is patched twice"


class TestNewTasks:
    def test_a_marked_function_becomes_a_locked_task_before_autoretry(self, app: Celery) -> None:
        def body() -> None:
            raise KeyError

        task = app.task(name="one", shared=False, autoretry_for=(KeyError,))(single_instance(key="k")(body))
        app.finalize()
        assert isinstance(app.tasks["one"], LockedTask)
        assert patches.has_autoretry(app.tasks["one"])
        assert task.apply(retries=0, throw=False).state == "FAILURE"
        assert app.tasks["one"].lock_key_for() == "k"

    def test_a_class_is_known_to_be_made_of_a_function(self, app: Celery) -> None:
        app.task(name="one", shared=False)(nothing)
        app.finalize()
        assert patches.is_made_of_function(type(app.tasks["one"]))
        assert not patches.is_made_of_function(LockedTask)

    def test_the_class_of_a_task_can_be_changed(self, app: Celery) -> None:
        @app.task(name="one", shared=False)
        def one() -> None: ...

        app.finalize()
        task = app.tasks["one"]
        cls = type("Other", (type(task),), {"answer": 42})
        patches.change_class(task, cls)
        assert (task.answer, task.app, type(task)) == (42, app, cls)


class TestFinalize:
    def test_tasks_after_one_with_an_error_are_made_and_locked(self, app: Celery) -> None:
        def body() -> None: ...

        def other() -> None: ...

        single_instance(key="<nothing>")(app.task(name="wrong", shared=False)(body))
        app.task(name="right", shared=False)(single_instance(key="k")(other))
        with pytest.raises(Exception, match="nothing"):
            app.finalize()
        assert isinstance(app.tasks["right"], LockedTask)

    def test_a_function_is_called_when_the_tasks_are_made(self, app: Celery) -> None:
        seen: list[bool] = []
        patches.call_when_tasks_are_made(lambda made: seen.append("one" in made.tasks) if made is app else None)
        app.task(name="one", shared=False)(nothing)
        app.finalize()
        assert seen == [True]

    def test_an_error_of_it_ends_finalize(self, app: Celery) -> None:
        def fail(made: Celery) -> None:
            if made is app:
                raise LockConfigError("no")

        patches.call_when_tasks_are_made(fail)
        with pytest.raises(LockConfigError, match="no"):
            app.finalize()

    def test_the_current_app_is_changed_within_a_block(self, app: Celery) -> None:
        before = _state._tls.current_app
        with patches.as_current_app(app):
            assert celery.current_app._get_current_object() is app
        assert _state._tls.current_app is before


class TestOrigin:
    @pytest.mark.parametrize("pydantic", [False, True])
    def test_the_function_of_a_task_and_of_its_proxy(self, app: Celery, pydantic: bool) -> None:
        def body() -> None: ...

        proxy = app.task(name="one", shared=False, pydantic=pydantic)(body)
        assert type(proxy) is PromiseProxy
        assert patches.origin_of(proxy) == (body, "one", app)
        app.finalize()
        assert patches.origin_of(proxy) == (body, "one", app)
        assert patches.origin_of(app.tasks["one"]) == (body, "one", app)
        assert patches.task_in(app, body, "one") is app.tasks["one"]
        assert patches.task_in(app, lambda: None, "one") is None

    def test_a_shared_task_is_a_plain_proxy(self) -> None:
        assert type(celery.shared_task(name=uuid.uuid4().hex)(nothing)) is Proxy


class Model(BaseModel):
    number: int


def test_pydantic_validates_as_for_the_body(app: Celery) -> None:
    context = {"tenant": "one"}

    @app.task(name="one", shared=False, pydantic=True, pydantic_strict=True, pydantic_context=context)
    def one(model: Model) -> None: ...

    app.finalize()
    body = inspect.getattr_static(type(app.tasks["one"]), "run")
    validate = patches.pydantic_validation(body)
    assert validate is not None
    assert validate(Model, {"number": 1}) == Model(number=1)
    with pytest.raises(ValueError, match="number"):
        validate(Model, {"number": "1"})  # strict


class TestAutoretry:
    def test_a_wrapper_of_autoretry_sees_its_retry(self, app: Celery) -> None:
        @app.task(name="one", shared=False, autoretry_for=(KeyError,), max_retries=0)
        def one() -> None:
            raise KeyError

        app.finalize()
        seen: list[tuple[str, type[BaseException]]] = []

        def call(task: Any, autoretry: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            try:
                return autoretry(*args, **kwargs)
            except BaseException as error:
                seen.append((task.name, type(error)))
                raise

        patches.wrap_autoretry(app.tasks["one"], call)
        assert app.tasks["one"].apply(throw=False).state == "FAILURE"
        assert seen == [("one", KeyError)]


def test_the_task_that_calls_an_item_of_a_map_is_known(app: Celery) -> None:
    @app.task(name="one", shared=False)
    def one(number: int) -> str | None:
        return patches.calling_task()

    app.finalize()
    task = app.tasks["one"]
    assert task.map([1]).apply().get() == ["celery.map"]
    assert task.apply((1,)).get() is None


def test_a_revoke_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker.control import Panel

    monkeypatch.setattr(patches, "_revoke_replacements", set())
    for name in ("revoke", "terminate"):
        monkeypatch.setitem(Panel.data, name, lambda state, *args, **kwargs: "done")
    reported: list[list[str]] = []
    for _ in range(2):  # the second time has no effect
        patches.install_for_revokes(lambda app, task_ids: reported.append(list(task_ids)))
    state = SimpleNamespace(app=None)
    assert Panel.data["revoke"](state, "a", terminate=True) == "done"
    assert Panel.data["revoke"](state, task_id=["b", "c"]) == "done"
    assert Panel.data["terminate"](state, "TERM", "d") == "done"
    assert Panel.data["terminate"](state, signal="TERM", task_id=["e"]) == "done"
    assert reported == [["a"], ["b", "c"], ["d"], ["e"]]


@pytest.mark.parametrize(("error", "logged"), [(Deferred("parked"), False), (celery.exceptions.Ignore("mine"), True)])
def test_celery_does_not_log_a_deferred_run_as_ignored(
    app: Celery, caplog: pytest.LogCaptureFixture, error: Exception, logged: bool
) -> None:
    @app.task(name="one", shared=False)
    def one() -> None:
        raise error

    app.finalize()
    trace = build_tracer("one", app.tasks["one"], app=app)
    with caplog.at_level(logging.INFO, "celery.app.trace"):
        trace(uuid.uuid4().hex, (), {}, {"is_eager": False, "hostname": "here"})
    assert ("ignored" in caplog.text) is logged


def test_a_channel_of_kombus_redis_uses_another_client_during_a_call() -> None:
    class Channel:
        def conn_or_acquire(self, client: Any = None) -> str:
            return "its own"

    channel, client, used = Channel(), object(), []

    def publish() -> None:
        with channel.conn_or_acquire() as one:  # type: ignore[attr-defined]
            used.append(one)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patches.call_with_client(channel, client, publish)
    assert used == [client]
    assert channel.conn_or_acquire() == "its own"
