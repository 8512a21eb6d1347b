"""The key is made by the signature that callers use, whatever lies around the body."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Optional

import pytest
import tenacity
from celery import Celery, Task
from pydantic import BaseModel, RootModel, ValidationInfo, model_validator

from celery_locks import LockConfigError, LockedTask, LockKeyError, current_lease, single_instance

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery(uuid.uuid4().hex, broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.locks_url = f"memory://{uuid.uuid4().hex}"
    yield app
    app.close()


# Decorators -----------------------------------------------------------------------------------------------------------


def adds_first(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function("SESSION", *args, **kwargs)

    return wrapper


def adds_first_with_parameters(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(user_id: int, channel: str = "mail") -> Any:
        return function("SESSION", user_id, channel)

    return wrapper


def adds_first_by_a_lambda(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(function)(lambda *args, **kwargs: function("SESSION", *args, **kwargs))


class AddsFirst:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function("SESSION", *args, **kwargs)


def takes_one_for_itself(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, debug: bool = False, **kwargs: Any) -> Any:
        return function("SESSION", *args, **kwargs)

    return wrapper


def adds_by_name(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, session="SESSION", **kwargs)

    return wrapper


def sets_an_item(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs["session"] = "SESSION"
        return function(*args, **kwargs)

    return wrapper


def sets_a_default(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("session", "SESSION")
        return function(*args, **kwargs)

    return wrapper


def drops_the_first(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function("SESSION", *args[1:], **kwargs)

    return wrapper


def rebinds(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = ("SESSION", *args)
        return function(*args, **kwargs)

    return wrapper


def has_no_source(function: Callable[..., Any]) -> Callable[..., Any]:
    names: dict[str, Any] = {"function": function, "functools": functools}
    exec(
        "def make(function):\n    @functools.wraps(function)\n"
        "    def wrapper(*args, **kwargs): return function('SESSION', *args, **kwargs)\n    return wrapper\n",
        names,
    )
    made: Callable[..., Any] = names["make"](function)
    return made


#: Where the caller's signature can be known.
KNOWN: list[Decorator] = [
    adds_first,
    adds_first_with_parameters,
    adds_first_by_a_lambda,
    AddsFirst,
    takes_one_for_itself,
    adds_by_name,
]
UNKNOWN: list[Decorator] = [sets_an_item, sets_a_default, drops_the_first, rebinds, has_no_source]


def with_session() -> Callable[..., Any]:
    def notify(session: Any, user_id: int, channel: str = "mail") -> Any:
        lease = current_lease()
        return lease and (session, lease.key)

    return notify


def between(app: Celery, decorator: Decorator, key: Any) -> Any:
    return app.task(name="t", shared=False)(single_instance(key=key)(decorator(with_session())))


def innermost(app: Celery, decorator: Decorator, key: Any) -> Any:
    return app.task(name="t", shared=False)(decorator(single_instance(key=key)(with_session())))


def outermost(app: Celery, decorator: Decorator, key: Any) -> Any:
    return single_instance(key=key)(app.task(name="t", shared=False)(decorator(with_session())))


def by_base(app: Celery, decorator: Decorator, key: Any) -> Any:
    return app.task(name="t", base=LockedTask, lock_key=key, shared=False)(decorator(with_session()))


@pytest.mark.parametrize("order", [between, innermost, outermost, by_base])
class TestADecoratorThatAddsAnArgument:
    @pytest.mark.parametrize("decorator", KNOWN)
    def test_the_key_names_the_callers_argument(self, app: Celery, order: Any, decorator: Decorator) -> None:
        task = order(app, decorator, "user:<user_id>")
        assert task.apply((), {"user_id": 7, "channel": "sms"}).result == ("SESSION", "user:7")
        if decorator is not adds_by_name:  # there a position would be taken twice
            assert task.apply((7, "sms")).result == ("SESSION", "user:7")

    @pytest.mark.parametrize("decorator", KNOWN)
    def test_the_default_key_has_the_callers_arguments(self, app: Celery, order: Any, decorator: Decorator) -> None:
        task = order(app, decorator, None)
        key = task.lock_key_for(user_id=7)
        assert key.startswith('t(user_id=7,channel="mail"')
        assert key == task.lock_key_for(channel="mail", user_id=7)
        assert "session" not in key

    @pytest.mark.parametrize("decorator", KNOWN)
    def test_the_added_argument_can_not_be_named(self, app: Celery, order: Any, decorator: Decorator) -> None:
        with pytest.raises(LockKeyError, match="no argument session"):
            order(app, decorator, "s:<session>").name  # noqa: B018

    @pytest.mark.parametrize("decorator", UNKNOWN)
    @pytest.mark.parametrize("key", ["user:<user_id>", None])
    def test_what_can_not_be_known_is_refused(self, app: Celery, order: Any, decorator: Decorator, key: Any) -> None:
        with pytest.raises(LockKeyError, match=r"wrapper.*(may add, drop or change arguments|can't be read)"):
            order(app, decorator, key).name  # noqa: B018

    @pytest.mark.parametrize("decorator", UNKNOWN)
    def test_a_callable_key_knows_better(self, app: Celery, order: Any, decorator: Decorator) -> None:
        task = order(app, decorator, lambda user_id, channel="mail": f"user:{user_id}")
        assert task.lock_key_for(7, "sms") == task.lock_key_for(user_id=7) == "user:7"


def passes_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        print("called with", args, kwargs)
        for _ in range(2):
            with suppress(ZeroDivisionError):
                return function(*args, **kwargs)
        return None

    return wrapper


def passes_on_through_another(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return run(function, *args, **kwargs)

    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@contextmanager
def block() -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    "decorator", [passes_on, passes_on_through_another, block(), tenacity.retry, lambda f: passes_on(passes_on(f))]
)
@pytest.mark.parametrize("key", ["user:<user_id>", None])
def test_a_decorator_that_passes_all_on_changes_no_key(app: Celery, decorator: Decorator, key: Any) -> None:
    def notify(user_id: int, channel: str = "mail") -> None: ...

    bare = app.task(name="t", shared=False)(single_instance(key=key)(notify)).lock_key_for(7)
    app.tasks.pop("t")
    vars(notify).clear()
    around = app.task(name="t", shared=False)(single_instance(key=key)(decorator(notify)))
    assert around.lock_key_for(7) == around.lock_key_for(user_id=7, channel="mail") == bare


def adds_after_self(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, "SESSION", *args, **kwargs)

    return wrapper


def test_methods_and_bound_tasks(app: Celery) -> None:
    class Notify(LockedTask):
        name = "method"
        lock_key = "user:<user_id>"

        @adds_after_self
        def run(self, session: str, user_id: int) -> Any:
            return session, self.lease and self.lease.key

    @app.task(bind=True, name="bound", shared=False)
    @single_instance(key="user:<user_id>")
    @adds_after_self
    def bound(self: Any, session: str, user_id: int) -> Any:
        return session, self.lease.key

    for task in (app.register_task(Notify()), bound):
        assert task.apply((7,)).result == task.apply((), {"user_id": 7}).result == ("SESSION", "user:7")


def test_a_bound_task_that_takes_anything_keeps_its_arguments(app: Celery) -> None:
    @app.task(bind=True, name="any", base=LockedTask, shared=False)
    def anything(*args: Any) -> None: ...

    assert anything.lock_key_for(7) != anything.lock_key_for(8)


def test_a_default_that_the_body_changes_is_the_first_one_in_every_key(app: Celery) -> None:
    @single_instance
    def collect(a: int, options: dict[str, int] = {}, lines: list[int] = []) -> None:  # noqa: B006
        options["n"] = options.get("n", 0) + 1
        lines.append(1)

    task = app.task(name="t", shared=False)(collect)
    before = task.lock_key_for(1)
    task.apply((1,))
    assert task.lock_key_for(1) == before
    other = Celery("other", set_as_current=False)
    assert other.task(name="t", shared=False)(collect).lock_key_for(1) == before, "another app made it after a run"
    assert task.lock_spec.with_options({"key": None, "ttl": 5}).key_for((1,), {}) == before


def test_a_callable_key_can_not_change_a_default(app: Celery) -> None:
    def own(a: int, options: dict[str, int]) -> str:
        options["n"] = options.get("n", 0) + 1
        return f"{a}:{options['n']}"

    @app.task(name="t", base=LockedTask, lock_key=own, shared=False)
    def collect(a: int, options: dict[str, int] = {}) -> None: ...  # noqa: B006

    assert collect.lock_key_for(1) == collect.lock_key_for(1) == "1:1"


# Annotations: this module postpones its own -------------------------------------------------------------------------


class Order(BaseModel):
    id: int
    note: str = ""


class Lines(RootModel[list[int]]): ...


class WithContext(BaseModel):
    id: int

    @model_validator(mode="after")
    def _has_context(self, info: ValidationInfo) -> WithContext:
        if not (info.context and info.context["celery_task_name"] == "t"):
            raise ValueError
        return self


def plain(order: Order) -> None: ...
def optional(order: Order | None = None) -> None: ...
def old_optional(order: Optional[Order] = None) -> None: ...  # noqa: UP045
def text(order: "Order") -> None: ...  # noqa: UP037
def next_to_a_name_for_type_checkers(order: Order, rate: OnlyForTypeCheckers | None = None) -> None: ...
def defined_below(order: Below) -> None: ...


class Below(Order): ...


@pytest.mark.parametrize(
    "body", [plain, optional, old_optional, text, next_to_a_name_for_type_checkers, defined_below, passes_on(plain)]
)
def test_promise_14_a_model_and_its_mapping_have_one_key(app: Celery, body: Callable[..., Any]) -> None:
    @app.task(pydantic=True, name="t", shared=False)
    @single_instance
    @functools.wraps(body)
    def task(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)

    model = Below if body is defined_below else Order
    calls = [model(id=1), {"id": 1}, {"id": 1, "note": ""}]
    assert len({task.lock_key_for(order) for order in calls}) == 1
    assert task.lock_key_for({"id": 2}) != task.lock_key_for({"id": 1})


def test_a_model_that_is_no_mapping(app: Celery) -> None:
    @app.task(pydantic=True, name="t", base=LockedTask, shared=False)
    def task(lines: Lines) -> None: ...

    assert task.lock_key_for(Lines([1])) == task.lock_key_for([1])


def test_a_model_is_made_with_the_context_that_celery_gives_the_body(app: Celery) -> None:
    @app.task(pydantic=True, name="t", base=LockedTask, shared=False)
    def task(order: WithContext) -> None: ...

    assert "WithContext(id=1)" in task.lock_key_for({"id": 1})


def test_a_class_of_the_function_that_defines_the_task(app: Celery) -> None:
    class Local(BaseModel):
        id: int
        note: str = ""

    @app.task(pydantic=True, name="t", shared=False)
    @single_instance
    def task(order: Local) -> None: ...

    assert task.lock_key_for(Local(id=1)) == task.lock_key_for({"id": 1})


def test_a_model_under_a_name_that_only_type_checkers_know_is_refused(app: Celery) -> None:
    @app.task(pydantic=True, name="t", base=LockedTask, shared=False)
    def task(order: OnlyForTypeCheckers) -> None: ...

    with pytest.raises(LockKeyError, match=r"the argument order .*OnlyForTypeCheckers can't be resolved"):
        task.lock_key_for(Order(id=1))
    assert task.lock_key_for({"id": 1}) == task.lock_key_for({"id": 1})


# Async functions ------------------------------------------------------------------------------------------------------


async def fetch(user_id: int) -> int:
    return user_id


def assigns(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        print("called")
        return result

    return wrapper


def hides(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(user_id: int) -> Any:
        return function(user_id)

    return wrapper


def runs(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        return asyncio.run(function(*args, **kwargs))

    return wrapper


ASYNC = {
    "bare": fetch,
    "wrapped": functools.wraps(fetch)(lambda *args, **kwargs: fetch(*args, **kwargs)),
    "assigned": assigns(fetch),
    "twice": assigns(assigns(fetch)),
    "partial": functools.partial(fetch),
}


@pytest.mark.parametrize("body", ASYNC.values(), ids=ASYNC)
def test_an_async_body_is_refused_by_the_decorator(body: Any) -> None:
    with pytest.raises(LockConfigError, match="async"):
        single_instance(body)


@pytest.mark.parametrize("name", ["bare", "wrapped", "assigned", "twice"])
def test_an_async_body_is_refused_by_the_base_class(app: Celery, name: str) -> None:
    with pytest.raises(LockConfigError, match="async"):
        app.task(base=LockedTask, name="t", shared=False)(ASYNC[name]).name  # noqa: B018


def test_a_decorator_that_runs_the_coroutine_is_taken(app: Celery) -> None:
    task = app.task(name="t", shared=False)(single_instance(key="<user_id>")(runs(fetch)))
    assert task.apply((7,)).result == 7


def test_a_coroutine_that_comes_out_is_an_error_of_the_run(app: Celery) -> None:
    task = app.task(name="t", base=LockedTask, shared=False)(hides(fetch))
    result = task.apply((7,)).result
    assert isinstance(result, LockConfigError)
    assert "fetch() is async" in str(result)


def test_a_class_whose_run_is_async_is_refused() -> None:
    class Fetch(Task):
        async def run(self) -> None: ...

    with pytest.raises(LockConfigError, match="async"):
        single_instance(Fetch)
