"""Settings, checks and transactions of the project."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.core import checks
from django.core.management import call_command
from django.db import transaction
from django.test import override_settings
from shop.celery import app
from shop.tasks import count, describe

from celery_locks import LockConfigError, LockContended, Locks, Skipped


def ids(deploy: bool = False) -> list[str]:
    found = checks.run_checks(tags=["celery_locks"], include_deployment_checks=deploy)
    assert all(each.hint for each in found)
    return [each.id for each in found]


def test_settings_come_from_django() -> None:
    assert app.conf.locks_url == "memory://shop"
    assert describe.lock_options.ttl == 7
    assert count.lock_options.ttl == 7


def test_django_finds_nothing_wrong_with_the_app(capsys) -> None:
    call_command("check")
    call_command("makemigrations", "--check", "--dry-run")
    call_command("dumpdata")
    assert "celery_locks" not in [model._meta.db_table for model in apps.get_models() if model._meta.managed]


def test_a_store_of_one_process(settings_without_debug) -> None:
    assert ids() == ["celery_locks.W001"]
    with override_settings(DEBUG=True):
        assert ids() == []


def test_a_wrong_setting(monkeypatch) -> None:
    monkeypatch.setitem(app.conf, "locks_tll", 3)
    found = checks.run_checks(tags=["celery_locks"])
    assert [each.id for each in found] == ["celery_locks.E002"]
    assert "locks_ttl" in found[0].msg


def test_no_store(monkeypatch) -> None:
    def none(cls, app, *_) -> None:
        raise LockConfigError("no lock store is set")

    monkeypatch.setattr(Locks, "from_app", classmethod(none))
    assert ids() == ["celery_locks.E003"]
    assert ids(deploy=True) == ["celery_locks.E003"]


def test_a_store_that_is_away(monkeypatch) -> None:
    away = Locks("redis://:secret@127.0.0.1:1/0")
    monkeypatch.setattr(Locks, "from_app", classmethod(lambda cls, app, *_: away))
    assert ids() == []
    found = checks.run_checks(tags=["celery_locks"], include_deployment_checks=True)
    assert [each.id for each in found] == ["celery_locks.W002"]
    assert "secret" not in found[0].msg


def test_each_store_is_checked(monkeypatch, settings_without_debug, tmp_path) -> None:
    stores = {
        "default": Locks(f"sqlite:///{tmp_path}/locks.db"),
        "away": Locks("redis://:secret@127.0.0.1:1/0"),
        "own": Locks("memory://own"),
    }
    monkeypatch.setitem(app.conf, "locks_stores", {"away": "redis://", "own": "memory://own", "wrong": "nonsense://"})

    def from_app(cls, app, store="default") -> Locks:
        return stores[store] if store in stores else Locks("nonsense://")

    monkeypatch.setattr(Locks, "from_app", classmethod(from_app))
    assert ids() == ["celery_locks.W001", "celery_locks.E003"]
    assert sorted(ids(deploy=True)) == ["celery_locks.E003", "celery_locks.W001", "celery_locks.W002"]


def test_promise_24_a_commit_takes_the_lease(celery_locks, lock_history, assert_locked) -> None:
    with transaction.atomic():
        group = Group.objects.create(name="committed")
        describe.delay_on_commit(group.pk)
        assert lock_history.of(f"group:{group.pk}") == []
    assert assert_locked(f"group:{group.pk}", by=describe).owner.partition("] ")[2].startswith("called by")
    with pytest.raises(LockContended):
        describe.delay(group.pk)


def test_promise_24_a_rollback_leaves_nothing(celery_locks, lock_history) -> None:
    with transaction.atomic():
        describe.delay_on_commit(Group.objects.create(name="never").pk)
        count.delay_on_commit()
        transaction.set_rollback(True)
    assert not Group.objects.filter(name="never").exists()
    assert list(lock_history) == []
    assert celery_locks.list().items == ()


def test_eager(held_lock) -> None:
    group = Group.objects.create(name="eager")
    assert describe.apply((group.pk,)).get() == f"eager under group:{group.pk} for 7 s"
    with held_lock("count"):
        assert Skipped.of(count.apply().get())


@pytest.fixture
def settings_without_debug():
    with override_settings(DEBUG=False):
        yield
