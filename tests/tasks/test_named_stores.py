"""Several stores by name: ``locks_stores``, ``store=`` of a task and of a call, ``Locks.from_app(app, store=…)``."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_locks import (
    LockConfigError,
    LockContended,
    LockedTask,
    Locks,
    Outcome,
    audit,
    current_lease,
    single_instance,
)
from celery_locks.aio import AsyncLocks
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import Parking
from celery_locks.tasks.messages.header import HEADER
from celery_locks.tasks.options import all_locks
from celery_locks.tasks.settings_check import check_settings
from celery_locks.telemetry.reports import report_of
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

SOON = 60


@pytest.fixture
def app() -> Iterator[Celery]:
    name = uuid.uuid4().hex
    app = Celery(name, broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.locks_stores = {"default": f"memory://{name}", "audit": f"memory://{name}-audit"}
    yield app
    app.close()


def held(app: Celery, key: str) -> list[str]:
    """In which stores a key is held."""
    return [name for name in ("default", "audit") if Locks.from_app(app, name).lock(key).locked()]


def nothing(key: str = "") -> None:
    """The body of a task."""


class TestSettings:
    def test_each_name_is_a_store(self, app: Celery) -> None:
        default, audit = Locks.from_app(app), Locks.from_app(app, store="audit")
        assert default.store is Locks.from_app(app, store="default").store is not audit.store
        assert AsyncLocks.from_app(app, store="audit").store is audit.store
        assert list(all_locks(app)) == ["default", "audit"]

    def test_the_default_may_be_set_as_ever(self) -> None:
        conf = {"locks_url": "memory://one", "locks_stores": {"audit": MemoryStore()}, "locks_prefix": "p"}
        app: Any = type("App", (), {"conf": conf})
        assert Locks.from_app(app).url == "memory://one"
        assert Locks.from_app(app, store="audit").store is conf["locks_stores"]["audit"]  # type: ignore[index]
        assert Locks.from_app(app, store="audit").prefix == "p"

    def test_an_unknown_name_lists_the_known_ones(self, app: Celery) -> None:
        with pytest.raises(LockConfigError, match=r"no lock store has the name 'adit' \(known: 'default', 'audit'\)"):
            Locks.from_app(app, store="adit")

    @pytest.mark.parametrize("named", ["memory://", ["memory://"], {1: "memory://"}, {"": "memory://"}])
    def test_what_names_no_stores_is_refused(self, named: Any) -> None:
        with pytest.raises(LockConfigError, match="locks_stores="):
            check_settings({"locks_stores": named})

    def test_two_default_stores_are_refused(self) -> None:
        with pytest.raises(LockConfigError, match="both set the default store"):
            check_settings({"locks_url": "memory://", "locks_stores": {"default": "memory://"}})

    def test_the_app_may_choose_the_store_of_all_tasks(self, app: Celery) -> None:
        app.conf.locks_store = "audit"

        def body() -> list[str]:
            return held(app, "k")

        task = app.task(base=LockedTask, name="one", shared=False, lock_key="k")(body)
        assert task.apply().get() == ["audit"]
        with pytest.raises(LockConfigError, match="no lock store has the name 'adit'"):
            check_settings({"locks_store": "adit"})


class TestTasks:
    @pytest.mark.parametrize("way", ["base", "decorator"])
    def test_the_run_holds_its_key_there(self, app: Celery, way: str) -> None:
        def body() -> tuple[list[str], bool]:
            return held(app, "k"), current_lease() is not None

        if way == "base":
            task = app.task(base=LockedTask, name="one", shared=False, lock_key="k", lock_store="audit")(body)
        else:
            task = app.task(name="one", shared=False)(single_instance(key="k", store="audit")(body))
        assert task.apply().get() == (["audit"], True)
        assert held(app, "k") == []

    def test_an_unknown_store_is_refused_when_the_task_is_made(self, app: Celery) -> None:
        app.task(base=LockedTask, name="one", shared=False, lock_store="adit")(nothing)
        with pytest.raises(LockConfigError, match=r"'adit' \(known: 'default', 'audit'\)"):
            app.finalize()

    def test_the_call_holds_its_key_there_and_the_message_names_it(
        self, app: Celery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[dict[str, Any]] = []
        monkeypatch.setattr(app, "send_task", lambda *args, **options: sent.append(options))
        make = app.task(base=LockedTask, name="one", shared=False, lock_key="<key>", lock_scope="until_executed")
        task = make(nothing)
        task.apply_async(("a",), lock_store="audit")
        task.apply_async(("b",))
        assert (held(app, "a"), held(app, "b")) == (["audit"], ["default"])
        ours = [message["headers"][HEADER] for message in sent]
        assert [fields.get("store") for fields in ours] == ["audit", None]

    def test_outcomes_name_the_store_that_was_used(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(app, "send_task", lambda *args, **options: None)
        options = {"lock_key": "k", "lock_scope": "until_executed", "lock_on_contention": "raise"}
        task = app.task(base=LockedTask, name="one", shared=False, lock_store="audit", **options)(nothing)
        outcomes: list[Outcome] = []
        stop = audit(outcomes.append)
        try:
            task.apply_async(lock_store="default")
            with pytest.raises(LockContended):
                task.apply_async(lock_store="default")
            task.apply_async()
            task.apply(lock_store="default", lock_scope="while_executing", lock_key="other")
        finally:
            stop()
        assert [(each.kind, each.store) for each in outcomes] == [
            ("acquired", "default"),
            ("contended", "default"),
            ("acquired", "audit"),
            ("acquired", "default"),
            ("released", "default"),
        ]
        assert [report_of(each).store for each in outcomes] == [each.store for each in outcomes]

    def test_an_unknown_store_of_a_call_is_refused_before_a_message_is_sent(self, app: Celery) -> None:
        task = app.task(base=LockedTask, name="one", shared=False, lock_key="k")(nothing)
        with pytest.raises(LockConfigError, match="no lock store has the name 'adit'"):
            task.apply_async(lock_store="adit")


class TestWorkers:
    @pytest.fixture
    def shop(self, open_shop: Callable[..., Shop], tmp_path: Any) -> Shop:
        return open_shop(SHOP_AUDIT=f"sqlite:///{tmp_path}/audit.db")

    def audit(self, shop: Shop) -> tuple[Locks, Parking]:
        locks = Locks.from_app(shop.app, store="audit")
        assert isinstance(locks.store, Parking)
        return locks, locks.store

    def test_tasks_park_there_and_are_dispatched(self, shop: Shop, key: str) -> None:
        shop.start_worker(concurrency=2)
        locks, parking = self.audit(shop)
        with locks.lock(key):
            results = [shop.task(on_contention="park").apply_async((key,), lock_store="audit") for _ in range(3)]
            eventually(lambda: parking.waiting(locks._space.name(key)) == 3, SOON)
            assert shop.locks.info(key).waiting == 0
            assert shop.task(on_contention="park").delay(key).get(timeout=SOON) == key, (
                "the same key is another lock in another store"
            )
        assert [result.get(timeout=SOON) for result in results] == [key] * 3
        assert not locks.lock(key).locked()

    def test_the_lease_of_the_call_is_adopted_and_released(self, shop: Shop, key: str) -> None:
        locks, _ = self.audit(shop)
        result = shop.task(scope="until_executed", ttl=100).apply_async((key,), lock_store="audit")
        assert locks.lock(key).locked()
        shop.start_worker(concurrency=1)
        result.get(timeout=SOON)
        eventually(lambda: not locks.lock(key).locked(), SOON)

    def test_a_revoked_task_leaves_the_line(self, shop: Shop, key: str) -> None:
        shop.start_worker(concurrency=1)
        locks, parking = self.audit(shop)
        with locks.lock(key):
            result = shop.task(on_contention="park").apply_async((key,), lock_store="audit")
            eventually(lambda: parking.waiting(locks._space.name(key)) == 1, SOON)
            result.revoke()
            eventually(lambda: parking.waiting(locks._space.name(key)) == 0, SOON)

    def test_promise_01_the_key_of_a_killed_child_is_released(self, shop: Shop, key: str) -> None:
        worker = shop.start_worker(concurrency=1)
        locks, _ = self.audit(shop)
        shop.task().apply_async((key, 60), lock_store="audit", lock_ttl=100)
        eventually(lambda: locks.lock(key).locked() and shop.journal.stretches(key), SOON)
        [child] = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        eventually(lambda: not locks.lock(key).locked(), SOON)
