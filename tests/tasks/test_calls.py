"""Calls without a worker: direct, eager, and those that are refused before a message is sent."""

from __future__ import annotations

import inspect
import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from kombu.utils.json import dumps, loads

import celery_locks
from celery_locks import (
    LockConfigError,
    LockContended,
    LockedTask,
    LockError,
    LockKeyError,
    Locks,
    LockTimeout,
    Outcome,
    Skipped,
    audit,
    current_lease,
    signals,
    single_instance,
)
from celery_locks.settings import SCOPES
from celery_locks.tasks.policies.basic import POLICIES
from tests.support.waiting import eventually

ERRORS = [
    celery_locks.LockError("no", "k"),
    LockContended("no", "k", ["you"]),
    LockTimeout("no", "k", ["you"]),
    celery_locks.LockLost("no", "k", "stolen"),
    celery_locks.LockNotOwned("no", "k"),
    LockKeyError("no", "k"),
    LockConfigError("no", "k"),
    celery_locks.StoreUnavailable("no", "k"),
    celery_locks.LockQueueFull("no", "k"),
]


@pytest.fixture
def app() -> Iterator[Celery]:
    name = uuid.uuid4().hex
    app = Celery(name, broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.locks_url = f"memory://{name}"
    yield app
    app.close()


@pytest.fixture
def locks(app: Celery) -> Locks:
    return Locks.from_app(app)


def sees_lease(key: str = "k") -> str | None:
    """A body that tells the key of its lease."""
    lease = current_lease()
    return lease.key if lease else None


Define = Callable[..., Any]


@pytest.fixture(params=["base", "below", "above"])
def define(request: pytest.FixtureRequest, app: Celery) -> Define:
    """Defines the task in one of the ways."""

    def define_(body: Any = sees_lease, *, task: dict[str, Any] | None = None, **options: Any) -> Any:
        task = {"shared": False, "name": uuid.uuid4().hex, **(task or {})}

        def fresh(*args: Any, **kwargs: Any) -> Any:
            return body(*args, **kwargs)

        fresh.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
        if request.param == "base":
            return app.task(base=LockedTask, **task, **{f"lock_{name}": value for name, value in options.items()})(body)
        if request.param == "below":
            return app.task(**task)(single_instance(**options)(fresh))
        return single_instance(**options)(app.task(**task)(fresh))

    return define_


class TestPlainCalls:
    def test_promise_24_a_plain_call_takes_no_lease(self, define: Define, locks: Locks) -> None:
        task = define(key="<key>")
        with locks.lock("k"):
            assert task("k") is None

    def test_promise_24_an_eager_call_acquires_and_releases_its_own_lease(self, define: Define, locks: Locks) -> None:
        task = define(key="<key>")
        assert task.apply(("k",)).get() == "k"
        assert not locks.lock("k").locked()

    def test_promise_24_an_eager_call_leaves_the_lease_of_others_alone(self, define: Define, locks: Locks) -> None:
        task = define(key="<key>")
        with locks.lock("k") as lease:
            with pytest.raises(LockContended):
                task.apply(("k",), throw=True)
            assert lease.held
            assert [holder.token for holder in locks.lock("k").holders()] == [lease.token]

    def test_always_eager(self, define: Define, app: Celery) -> None:
        app.conf.task_always_eager = True
        assert define(key="<key>").delay("k").get() == "k"

    def test_eager_waits_as_long_as_it_may(self, define: Define, locks: Locks) -> None:
        task = define(key="<key>", max_wait=0.05)
        outcomes = list[Outcome]()
        stop = audit(outcomes.append)
        with locks.lock("k"), pytest.raises(LockTimeout):
            task.apply(("k",), throw=True)
        stop()
        assert [outcome.sender for outcome in outcomes if outcome.kind == "timed_out"] == [task]

    def test_eager_skip_gives_skipped(self, define: Define, locks: Locks) -> None:
        task = define(key="<key>", on_contention="skip")
        with locks.lock("k"):
            assert Skipped.of(task.apply(("k",)).get()) is not None

    def test_a_failing_eager_body_gives_the_key_back(self, define: Define, locks: Locks) -> None:
        def fails(key: str) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            define(fails, key="<key>").apply(("k",), throw=True)
        assert not locks.lock("k").locked()

    def test_a_plain_call_of_itself_goes_on_under_the_same_lease(self, app: Celery, locks: Locks) -> None:
        @app.task(base=LockedTask, lock_key="n", shared=False, name="count_down")
        def count_down(n: int) -> int:
            assert len(locks.lock("n").holders()) == 1
            return n if n == 0 else count_down(n - 1)

        assert count_down.apply((3,), throw=True).get() == 0

    def test_the_lease_is_that_of_the_task_that_asks(self, app: Celery) -> None:
        @app.task(base=LockedTask, bind=True, lock_key="inner", shared=False, name="inner")
        def inner(self: Any) -> list[Any]:
            return [self.lease.key, current_lease().key]  # type: ignore[union-attr]

        @app.task(base=LockedTask, bind=True, lock_key="outer", shared=False, name="outer")
        def outer(self: Any) -> list[Any]:
            return [*inner.apply().get(disable_sync_subtasks=False), self.lease.key, inner.lease]

        assert outer.apply(throw=True).get() == ["inner", "inner", "outer", None]

    def test_each_item_of_a_map_takes_a_lease(self, define: Define, app: Celery, locks: Locks) -> None:
        task = define(key="<key>")
        app.finalize()
        assert task.map(["a", "b"]).apply(throw=True).get() == ["a", "b"]
        assert task.starmap([("c",), ("d",)]).apply(throw=True).get() == ["c", "d"]
        with locks.lock("b"), pytest.raises(LockContended):
            task.map(["a", "b"]).apply(throw=True)

    def test_enabled_off(self, define: Define, app: Celery, locks: Locks) -> None:
        app.conf.locks_enabled = False
        with locks.lock("k"):
            assert define(key="<key>").apply(("k",)).get() is None
        app.conf.locks_enabled = True
        assert define(key="<key>").apply(("k",)).get() == "k"
        assert define(key="<key>", enabled=False).apply(("k",)).get() is None


class TestKeys:
    def test_every_locked_task_returns_its_keys(self, define: Define) -> None:
        task = define(key="user:<key>")
        assert task.lock_key_for("a:b") == task.lock_key_for(key="a:b") == "user:a%3Ab"

    def test_the_default_key_names_task_and_arguments(self, define: Define) -> None:
        task = define(task={"name": "shop.sync"})
        assert task.lock_key_for() == task.lock_key_for("k") == 'shop.sync(key="k")'

    def test_a_callable_key(self, define: Define) -> None:
        assert define(key=lambda key="k": f"<{key}>").lock_key_for("a") == "<a>"

    def test_promise_15_an_argument_without_a_key_is_refused_before_a_message_is_sent(
        self, define: Define, app: Celery
    ) -> None:
        task = define()
        with pytest.raises(LockKeyError, match="key"):
            task.delay(object())
        with app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
            assert queue.qsize() == 0

    def test_promise_15_a_template_without_its_argument_is_refused_when_it_is_defined(self, define: Define) -> None:
        with pytest.raises(LockKeyError, match=r"usr_id.*key|key.*usr_id"):
            define(key="user:<usr_id>").name  # noqa: B018 - tasks are made when they are looked at

    def test_promise_15_below_it_is_refused_at_the_decorator(self) -> None:
        with pytest.raises(LockKeyError, match="usr_id"):
            single_instance(key="user:<usr_id>")(sees_lease)

    def test_wrong_arguments_are_celerys_to_refuse(self, define: Define) -> None:
        with pytest.raises(TypeError):
            define(key="<key>").delay("a", "b", "c")

    def test_a_signature_is_that_of_the_body(self, define: Define) -> None:
        assert list(inspect.signature(define(key="<key>").run).parameters) == ["key"]


class TestBadOptions:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"ttl": 0}, "ttl"),
            ({"ttl": -1}, "ttl"),
            ({"ttl": "30"}, "ttl"),
            ({"ttl": 0.0001}, "1 ms"),
            ({"ttl": 400 * 24 * 3600}, "a year"),
            ({"limit": 0}, "limit"),
            ({"limit": 1, "permits": 2}, "permits=2"),
            ({"on_contention": "retri"}, "'retry'"),
            ({"on_contention": "existing"}, "until_executed"),
            ({"on_contention": "existing", "scope": "while_executing"}, "until_executed"),
            ({"on_contention": {"cal": "skip"}}, "'call'"),
            ({"on_contention": {"call": "retry"}}, "existing, raise"),
            (
                {"on_contention": {"call": "raise"}},
                r"{'call': 'raise'} has no effect at the call with scope='while_exec",
            ),
            (
                {"on_contention": {"call": "skip", "run": "park"}},
                r"policy for .run. only, .*\(until_executed, until_",
            ),
            ({"on_contention": {"call": "skip"}, "scope": "while_executing"}, "no effect at the call"),
            ({"on_contention": {"run": "existing"}}, "retry"),
            ({"scope": "until_executd"}, "'until_executed'"),
            ({"scope": "while_executin"}, "'while_executing'"),
            ({"on_lost": "abrt"}, "'abort'"),
            ({"tll": 3}, "ttl"),
            ({"renew": 20}, "15"),
            ({"max_hold": 0}, "max_hold"),
            ({"backoff": 3}, "Backoff"),
            ({"enabled": "no"}, "True or False"),
        ],
        ids=str,
    )
    def test_each_is_refused_when_the_task_is_defined(self, define: Define, options: Any, says: str) -> None:
        with pytest.raises(LockConfigError, match=says):
            define(**options).name  # noqa: B018

    def test_a_setting_that_is_none_of_ours(self, app: Celery) -> None:
        from celery_locks.tasks.settings_check import check_settings

        app.conf.locks_tll = 5
        with pytest.raises(LockConfigError, match="did you mean 'locks_ttl'"):
            check_settings(app.conf)

    def test_async_is_refused_when_it_is_defined(self, app: Celery) -> None:
        async def sync() -> None: ...

        with pytest.raises(LockConfigError, match="async"):
            single_instance(sync)
        with pytest.raises(LockConfigError, match="async"):
            app.task(base=LockedTask, shared=False)(sync).name  # noqa: B018
        with pytest.raises(LockConfigError, match="async"):
            single_instance(app.task(shared=False, name="other")(sync)).name  # noqa: B018

    def test_something_else_is_refused(self) -> None:
        with pytest.raises(LockConfigError, match="decorates functions and tasks"):
            single_instance(key="a")(3)  # type: ignore[arg-type]

    def test_the_error_for_no_store_names_the_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CELERY_LOCKS_URL", raising=False)
        app = Celery("none", broker="memory://", set_as_current=False)
        task = app.task(base=LockedTask, shared=False, name="none")(sees_lease)
        with pytest.raises(LockConfigError, match="locks_url"):
            task.apply(throw=True)


class TestOptions:
    def test_the_nearest_wins(self, app: Celery) -> None:
        app.conf.update(locks_ttl=7, locks_max_wait=3)

        class Base(LockedTask):
            abstract = True
            lock_ttl = 8

        own = app.task(base=Base, lock_ttl=9, shared=False, name="own")(sees_lease)
        base = app.task(base=Base, shared=False, name="of_base")(sees_lease)
        default = app.task(base=LockedTask, shared=False, name="of_app")(sees_lease)
        above = single_instance(ttl=10)(app.task(base=Base, shared=False, name="of_above")(sees_lease))
        assert [task.lock_options.ttl for task in (own, base, default, above)] == [9, 8, 7, 10]
        assert default.lock_options.max_wait == 3

    def test_settings_with_a_namespace(self) -> None:
        class Settings:
            CELERY_LOCKS_URL = "memory://namespace"
            CELERY_LOCKS_TTL = 7

        app = Celery("django", set_as_current=False)
        app.config_from_object(Settings, namespace="CELERY")
        task = app.task(base=LockedTask, shared=False, name="of_django")(sees_lease)
        assert task.lock_options.ttl == 7
        assert task.apply(throw=True).get() == 'of_django(key="k")'

    def test_every_policy_by_its_name(self, define: Define) -> None:
        for name in POLICIES:
            assert define(on_contention=name).lock_options.on_contention == name

    def test_a_task_of_celery_itself_is_never_locked(self) -> None:
        app = Celery("whole", broker="memory://", task_cls=LockedTask, set_as_current=False)
        app.conf.locks_url = "memory://own-tasks"
        app.finalize()
        assert not app.tasks["celery.chord_unlock"].locks_runs()

    def test_a_shared_task_is_locked_in_each_app(self) -> None:
        name = f"shared_{uuid.uuid4().hex}"
        task = single_instance(key="<key>")(shared_task(name=name)(sees_lease))
        for number in range(2):
            app = Celery(f"of-shared-{number}", broker="memory://", set_as_current=False)
            app.conf.locks_url = f"memory://{name}-{number}"
            assert isinstance(app.tasks[name], LockedTask)
            assert app.tasks[name].apply(("k",), throw=True).get() == "k"
        assert task.name == name

    def test_one_function_may_be_several_tasks(self, app: Celery) -> None:
        locked = app.task(base=LockedTask, shared=False, name="first", lock_key="a")(sees_lease)
        free = app.task(shared=False, name="second")(sees_lease)
        assert locked.apply().get() == "a"
        assert free.apply().get() is None
        assert not isinstance(free, LockedTask)

    def test_a_decorated_class(self, app: Celery) -> None:
        @single_instance(key="<key>")
        class Sync(Task):  # type: ignore[misc]
            name = "sync_class"

            def run(self, key: str) -> str | None:
                return sees_lease(key)

        task = app.register_task(Sync())
        assert task.lock_key_for("a") == "a"
        assert task.apply(("a",)).get() == "a"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
class TestPromise24Errors:
    def test_pickle(self, error: celery_locks.LockError) -> None:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.args, vars(copy), str(copy)) == (type(error), error.args, vars(error), "no")

    def test_celerys_json_results(self, app: Celery, error: celery_locks.LockError) -> None:
        sent = json.loads(dumps(app.backend.prepare_exception(error, "json")))
        copy = app.backend.exception_to_python(loads(json.dumps(sent)))
        assert (type(copy), vars(copy), str(copy)) == (type(error), vars(error), "no")


def retry_for(error: type[Exception]) -> dict[str, Any]:
    return {"autoretry_for": (error,), "retry_kwargs": {"countdown": 0, "max_retries": 2}}


class TestAutoretry:
    """Celery's autoretry is around the body, and sees what a run raises."""

    @pytest.mark.parametrize("scope", SCOPES)
    def test_it_may_retry_a_lost_lease(self, define: Define, locks: Locks, scope: str) -> None:
        if scope in ("until_executing", "until_expired"):
            return  # no lease of the key to lose

        def loses_it_once(self: Any) -> int:
            if not self.request.retries:
                locks.lock("k").force_release()
            return int(self.request.retries)

        options = {"bind": True, **retry_for(celery_locks.LockLost)}
        assert define(loses_it_once, task=options, key="k", scope=scope).apply().get() == 1

    def test_it_may_retry_contention(self, define: Define, locks: Locks) -> None:
        refusals: list[str] = []

        def count(sender: Any, key: str, **_: Any) -> None:
            refusals.append(key)

        task = define(task=retry_for(LockContended), key="k", on_contention="raise")
        with locks.lock("k"):
            signals.on_lock_contended.connect(count)
            assert isinstance(task.apply(("a",)).result, LockContended)
        assert refusals == ["k"] * 3


def test_skipped_survives_pickle_and_json() -> None:
    skipped = Skipped("k", ["you"])
    assert pickle.loads(pickle.dumps(skipped)) == skipped
    assert Skipped.of(json.loads(json.dumps(skipped))) == skipped
    assert Skipped.of({"skipped": False, "key": "k", "holders": []}) is None
    assert Skipped.of("done") is None


def test_nothing_is_left_behind_by_a_thousand_eager_runs(app: Celery) -> None:
    from celery_locks.renewal import keeper

    task = app.task(base=LockedTask, lock_key="<key>", shared=False, name="many")(sees_lease)
    for number in range(1000):
        task.apply((f"eager {number}",))
    store: Any = Locks.from_app(app).store
    assert eventually(lambda: not store._locks)
    ours = {f"eager {number}" for number in range(1000)}
    assert not [lease for lease in keeper()._watch._leases.values() if lease.key in ours]


def test_a_body_may_give_its_key_back_early(app: Celery) -> None:
    @app.task(base=LockedTask, bind=True, lock_key="k", shared=False, name="early")
    def early(self: Any) -> bool:
        return bool(self.lease.release()) and not Locks.from_app(app).lock("k").locked()

    assert early.apply(throw=True).get() is True


def test_a_run_refuses_a_block_that_would_release_its_lease(app: Celery) -> None:
    @app.task(base=LockedTask, lock_key="k", shared=False, name="block")
    def block() -> bool:
        lease: Any = current_lease()
        with pytest.raises(LockError, match=r'^a run releases its lease itself: use it without "with"$'), lease:
            pytest.fail("the block was entered")
        return bool(lease.held) and Locks.from_app(app).lock("k").locked()

    assert block.apply(throw=True).get() is True
