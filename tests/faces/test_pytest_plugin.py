"""The pytest plugin, on a project that uses it, in several processes of pytest, and the first levels of its page."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import pages
from tests.support.celery_worker import ROOT

pytest_plugins = ("pytester",)

TASKS = """
from celery import Celery
from celery_locks import LockedTask, current_lease, single_instance

app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.locks_prefix = "shop"
app.conf.locks_stores = {"audit": "memory://audit"}
told = []

class Careful(LockedTask):
    abstract = True

    def on_lock_lost(self, lease, reason):
        told.append((lease.key, reason))

@app.task(name="shop.sync")
@single_instance(key="user:<user_id>", on_contention="skip")
def sync(user_id):
    return "synced"

@app.task(name="shop.mail")
@single_instance(key="user:<user_id>", on_contention="raise")
def mail(user_id):
    return "mailed"

@app.task(base=Careful, name="shop.rebuild", lock_key="shop:<shop_id>", lock_on_lost="abort")
def rebuild(shop_id, pages):
    for page in range(pages):
        current_lease().check()
    return pages

@app.task(base=Careful, name="shop.check", lock_key="user:<user_id>", lock_store="audit", shared=False)
def check(user_id):
    current_lease().check()

@app.task(base=Careful, name="shop.idle", lock_key="idle")
def idle(done):
    import time
    from pathlib import Path
    until = time.monotonic() + 60
    while not Path(done).exists() and time.monotonic() < until:
        time.sleep(0.01)
    return "idled"
"""

EAGER = """
import threading
import pytest
from celery_locks import LockConfigError, LockContended, LockLost, Locks, Skipped
from shop import app, check, idle, mail, rebuild, sync, told

@pytest.fixture(autouse=True)
def nothing_told():
    told.clear()

def test_skipped_while_held(held_lock, lock_history):
    with held_lock("user:7", by="an import"):
        assert Skipped.of(sync.apply((7,)).get())["holders"] == ["an import"]
    assert sync.apply((7,)).get() == "synced"
    assert mail.apply((7,)).get() == "mailed"
    assert lock_history.holders("user:7") == ["an import", "shop.sync", "shop.mail"]
    assert lock_history.kinds("user:7")[:3] == ["acquired", "contended", "released"]
    assert lock_history.of("user:8") == []

def test_all_have_one_store(lock_store, celery_locks, held_lock, assert_locked, assert_free):
    assert_free("user:7")
    with held_lock("user:7"):
        assert Locks.from_app(app).store is Locks().store is lock_store
        assert assert_locked("user:7", by="another holder").fencing_token > 0
        with pytest.raises(AssertionError, match="held by another holder"):
            assert_locked("user:7", by=sync)
        with pytest.raises(AssertionError, match="is not free: it is held by another holder"):
            assert_free("user:7")
        with pytest.raises(AssertionError, match="can't be held by me"), held_lock("user:7", by="me"):
            pass
        with pytest.raises(AssertionError, match="held are 'user:7'"):
            assert_locked("user:8")
        with pytest.raises(LockContended):
            mail.apply((7,)).get()
    assert_free("user:7")

def test_a_test_leaves_nothing_first(celery_locks):
    assert celery_locks.lock("left", ttl=30).try_acquire() is not None

def test_a_test_leaves_nothing_second(celery_locks, assert_free):
    assert_free("left")
    assert celery_locks.list().items == ()

def test_named_stores_stay_apart(lock_store, lock_history, lock_lost_after, held_lock):
    audit = Locks.from_app(app, "audit")
    assert audit.store_name == "audit" and audit.store is Locks.from_app(app, "audit").store is not lock_store
    with audit.lock("user:7", ttl=30):
        assert sync.apply((7,)).get() == "synced"
    assert lock_history.kinds("user:7") == ["acquired", "acquired", "released", "released"]
    lock_lost_after(calls=1)
    with held_lock("user:7"), pytest.raises(LockLost):
        check.apply((7,), throw=True)
    with pytest.raises(LockConfigError, match="no lock store has the name 'adit'"):
        Locks.from_app(app, "adit")

def test_permits(held_lock, celery_locks):
    with held_lock("smtp", permits=3):
        assert celery_locks.semaphore("smtp", limit=3).available() == 0
        assert celery_locks.semaphore("smtp", limit=4).available() == 1

@pytest.mark.parametrize("reason", ["deleted", "expired", "max_hold"])
def test_lost_at_a_call(lock_lost_after, lock_history, assert_free, reason):
    lock_lost_after(calls=3, reason=reason)
    with pytest.raises(LockLost) as lost:
        rebuild.apply((7, 5), throw=True)
    assert lost.value.reason == reason
    assert told == [("shop:7", reason)]
    assert lock_history.kinds("shop:7") == ["acquired", "lost"]
    assert_free("shop:7")
    assert rebuild.apply((7, 5)).get() == 5

def test_enough_calls_are_left(lock_lost_after):
    lock_lost_after(calls=3, key="shop:8")
    assert rebuild.apply((8, 2)).get() == 2
    assert rebuild.apply((7, 9)).get() == 9
    lock_lost_after._losses.clear()

def test_lost_after_seconds(lock_lost_after, tmp_path):
    lock_lost_after(0.05)
    assert isinstance(idle.apply((str(tmp_path / "never"),)).result, LockLost)
    assert told == [("idle", "deleted")]

def test_switched_off(lock_store, monkeypatch, held_lock, lock_history):
    monkeypatch.setitem(app.conf, "locks_enabled", False)
    with held_lock("user:7"):
        assert sync.apply((7,)).get() == "synced"
    assert lock_history.holders("user:7") == ["another holder"]

def test_switched_on_again(lock_store, held_lock):
    with held_lock("user:7"):
        assert Skipped.of(sync.apply((7,)).get())

def test_no_thread_is_left_behind(lock_store, celery_locks):
    import time
    from celery_locks.testing.harness import store_for_a_test
    def renewers():
        return sum(thread.name == "celery-locks-renewer" for thread in threading.enumerate())
    before = renewers()
    for _ in range(5):
        with store_for_a_test() as store:
            Locks(store).lock("a", ttl=30).try_acquire()
    until = time.monotonic() + 30
    while renewers() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert renewers() <= before
"""

NEVER = """
from shop import rebuild

def test_no_run(lock_lost_after):
    lock_lost_after(calls=1)

def test_too_short_a_run(lock_lost_after):
    lock_lost_after(seconds=60)
    assert rebuild.apply((7, 1)).get() == 1

def test_both(lock_lost_after):
    lock_lost_after(1, calls=1)
"""


OWN_WORKER = """
from celery.contrib.testing import tasks
from celery.worker import WorkController

def test_a_worker_of_its_own(celery_worker, lock_store):
    assert isinstance(celery_worker, WorkController)
    assert tasks.ping.delay().get(timeout=30) == "pong"
"""

#: pytest as it is where pytest-celery is not installed.
WITHOUT_PYTEST_CELERY = ("-p", "no:celery")
PLUGIN_OF_CELERY = "celery.contrib.pytest"


@pytest.mark.slow
def test_a_project_and_the_page_without_pytest_celery(pytester: pytest.Pytester) -> None:
    """Levels 1 and 2 of the page. Its reader, in ``tests/package/test_pages.py``, has pytest-celery."""
    page = (ROOT / "docs" / "how-to" / "testing.md").read_text()
    before, level_3, _ = page.partition("\n## 3. ")
    assert level_3
    files = {fence.title: fence.text for fence in pages.fences(before) if fence.language == "python"}
    assert PLUGIN_OF_CELERY in files["conftest.py"]
    for name, text in files.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    of_page = sum(text.count("\ndef test_") for text in files.values())
    assert of_page >= 8
    pytester.makepyfile(shop=TASKS, test_eager=EAGER, test_never=NEVER)
    pytester.makeini("[pytest]\naddopts = -p no:valkey\n")
    result = pytester.runpytest_subprocess(*WITHOUT_PYTEST_CELERY, "-n", "2", timeout=110)
    result.assert_outcomes(passed=16 + of_page, errors=2, failed=1)
    result.stdout.fnmatch_lines_random(
        [
            "*AssertionError: lock_lost_after (1 calls of lease.check()): no lease was lost, since no run took a lease",
            "*AssertionError: lock_lost_after (60 s): no lease was lost, since the run ended before",
            "*LockConfigError: *takes seconds or calls, one of them*",
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        (PLUGIN_OF_CELERY, WITHOUT_PYTEST_CELERY),
        (PLUGIN_OF_CELERY, ()),
        ("celery_locks.testing.local", ()),
    ],
    ids=["without pytest-celery", "with it", "with local nodes"],
)
def test_a_folder_has_celerys_own_worker(pytester: pytest.Pytester, plugin: str, options: tuple[str, ...]) -> None:
    """pytest-celery and its nodes have a ``celery_worker`` too: a folder's conftest chooses, as the page states."""
    line = "from celery.contrib.pytest import celery_worker"
    assert f"`{line}`" in (ROOT / "docs" / "how-to" / "testing.md").read_text()
    folder = pytester.mkdir("in_process")
    pytester.makeconftest(f"pytest_plugins = ({plugin!r},)")
    (folder / "conftest.py").write_text(line)
    (folder / "test_own.py").write_text(OWN_WORKER)
    pytester.makeini("[pytest]\naddopts = -p no:valkey\n")
    pytester.runpytest_subprocess(*options, timeout=110).assert_outcomes(passed=1, warnings=None)


def test_the_plugin_imports_nothing_of_ours() -> None:
    code = "import sys, pytest, pytest_celery_locks; print({name.split('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "'pytest_celery_locks'" in ended.stdout
    assert not [name for name in ("celery_locks", "celery", "kombu") if f"'{name}'" in ended.stdout]
