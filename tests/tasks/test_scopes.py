"""When a task's leases are held, on real workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import ChordError, MaxRetriesExceededError, TaskRevokedError

from celery_locks import LockContended, LockedTask, LockLost, Skipped, owners
from celery_locks.settings import SCOPES
from celery_locks.testing.harness import AssertFree
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop, shared_shop

CALL_SCOPES = SCOPES[1:]
#: Seconds within which a result must be there; what is slow here is the machine, not the lock.
SOON = 100
#: So long that a key which is free soon was released: its lease did not expire.
LONG_TTL = 100
OpenShop = Callable[..., Shop]


@pytest.fixture
def shop(prefork_shop: Shop) -> Shop:
    return prefork_shop


def tokens(shop: Shop, key: str, call: bool = False) -> list[str]:
    lock = shop.lock(key)
    lock._name += ":call" if call else ""
    return [holder.token for holder in lock.holders()]


def holder_ids(shop: Shop, key: str) -> list[str | None]:
    return [owners.task_id_of(holder.owner) for holder in shop.lock(key).holders()]


def left_over(shop: Shop, key: str) -> list[str]:
    """The locks about a key that anybody holds or waits for."""
    client: Any = shop.journal._redis
    names = [name.decode() for name in client.scan_iter(f"celery-locks:*{key}*")]
    locks = [name for name in names if name.endswith(("}", ":call"))]
    held = [name for name in locks if int(client.hget(name, "held") or 0)]
    return held + [name for name in names if name.endswith(":line")]


def begun(shop: Shop, key: str, count: int = 1) -> None:
    eventually(lambda: len(shop.journal.stretches(key)) >= count, SOON)


@pytest.fixture(scope="class")
def one_worker() -> Iterator[Shop]:
    """A worker that takes one task at a time."""
    with shared_shop() as shop:
        shop.start_worker(concurrency=1)
        yield shop


class Blocker:
    """Keeps a task running until `end` is called."""

    def __init__(self, path: Path) -> None:
        self.until = str(path / "go")

    def end(self) -> None:
        Path(self.until).touch()


@pytest.fixture
def blocker(tmp_path: Path) -> Blocker:
    return Blocker(tmp_path)


class TestWhenItIsHeld:
    def test_until_executed_from_the_call_to_the_end(self, shop: Shop, key: str, blocker: Blocker) -> None:
        first = shop.task(scope="until_executed").delay(key, until=blocker.until)
        assert holder_ids(shop, key) == [first.id]
        begun(shop, key)
        assert holder_ids(shop, key) == [first.id]
        assert shop.task(scope="until_executed").delay(key).id == first.id
        blocker.end()
        assert first.get(timeout=SOON) == key
        assert not left_over(shop, key)
        assert shop.task(scope="until_executed").delay(key).get(timeout=SOON) == key
        assert len(shop.journal.stretches(key)) == 2

    @pytest.mark.slow
    def test_until_executed_is_renewed_while_it_runs(self, shop: Shop, key: str, blocker: Blocker) -> None:
        first = shop.task(scope="until_executed", ttl=0.6).delay(key, until=blocker.until)
        begun(shop, key)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert holder_ids(shop, key) == [first.id]
            time.sleep(0.02)  # others need the processor
        blocker.end()
        assert first.get(timeout=SOON) == key

    def test_until_executing_from_the_call_to_the_start(
        self, shop: Shop, key: str, assert_free: AssertFree, blocker: Blocker
    ) -> None:
        first = shop.task(scope="until_executing").delay(key, until=blocker.until)
        begun(shop, key)
        assert_free(key)
        second = shop.task(scope="until_executing").delay(key, until=blocker.until)
        assert second.id != first.id
        begun(shop, key, 2)
        blocker.end()
        assert [first.get(timeout=SOON), second.get(timeout=SOON)] == [key, key]
        assert shop.journal.most_at_once(key) == 2
        assert [stretch.fence for stretch in shop.journal.stretches(key)] == [0, 0], "its body has no lease of the key"
        assert not left_over(shop, key)

    def test_until_and_while_executing_one_waits_while_one_runs(self, shop: Shop, key: str, blocker: Blocker) -> None:
        first = shop.task(scope="until_and_while_executing").delay(key, until=blocker.until)
        begun(shop, key)
        second = shop.task(scope="until_and_while_executing").delay(key)
        assert second.id != first.id
        eventually(lambda: second.state == "RETRY", SOON)
        third = shop.task(scope="until_and_while_executing").delay(key)
        assert third.id == second.id, "one waits already"
        blocker.end()
        assert [first.get(timeout=SOON), second.get(timeout=SOON)] == [key, key]
        assert shop.journal.most_at_once(key) == 1
        assert len(shop.journal.stretches(key)) == 2
        assert not left_over(shop, key)

    @pytest.mark.slow
    def test_until_and_while_executing_waits_longer_than_the_ttl(self, shop: Shop, key: str, blocker: Blocker) -> None:
        task = shop.task(scope="until_and_while_executing", ttl=0.5)
        first = task.delay(key, until=blocker.until)
        begun(shop, key)
        second = task.delay(key)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert task.delay(key).id == second.id
            time.sleep(0.02)  # others need the processor
        blocker.end()
        assert [first.get(timeout=SOON), second.get(timeout=SOON)] == [key, key]

    @pytest.mark.parametrize("policy", ["skip", "raise"])
    def test_a_run_that_is_refused_releases_the_lease_of_its_call(self, shop: Shop, key: str, policy: str) -> None:
        sides = {"call": "existing", "run": policy}
        task = shop.task(scope="until_and_while_executing", on_contention=sides)
        with shop.lock(key):
            result = task.delay(key)
            if policy == "skip":
                assert Skipped.of(result.get(timeout=SOON)) is not None
            else:
                with pytest.raises(LockContended):
                    result.get(timeout=SOON)
            eventually(lambda: not tokens(shop, key, call=True), 2)
        assert task.delay(key).get(timeout=SOON) == key

    def test_a_task_may_replace_itself_with_another_of_its_key(self, shop: Shop, key: str) -> None:
        assert shop.task("replaces_itself", scope="until_executed").delay(key).get(timeout=SOON) == key
        assert not left_over(shop, key)

    @pytest.mark.parametrize("body", ["work", "ends_with", "autoretries"])
    def test_until_expired_whatever_happens(self, shop: Shop, key: str, assert_free: AssertFree, body: str) -> None:
        arguments = ("ignore",) if body == "ends_with" else ()
        task = shop.task(body, scope="until_expired", ttl=3)
        first = task.delay(key, *arguments)
        token = tokens(shop, key)
        begun(shop, key, 4 if body == "autoretries" else 1)
        eventually(lambda: all(stretch.end for stretch in shop.journal.stretches(key)), SOON)
        assert task.delay(key, *arguments).id == first.id
        assert tokens(shop, key) == token, "the run did not touch it"
        assert_free(key, within=SOON)
        assert task.delay(key, *arguments).id != first.id


class TestMessagesWithoutALease:
    @pytest.mark.parametrize("scope", CALL_SCOPES)
    def test_promise_17_a_task_sent_by_name_is_locked_at_its_run(self, shop: Shop, key: str, scope: str) -> None:
        stranger = Celery("stranger", broker=shop.app.conf.broker_url, backend=shop.app.conf.result_backend)
        with shop.lock(key):
            result = stranger.send_task(f"work(scope={scope!r})", (key,))
            eventually(lambda: result.state == "RETRY", SOON)
        assert result.get(timeout=SOON) == key
        assert shop.lock(key).locked() == (scope == "until_expired")

    @pytest.mark.slow
    @pytest.mark.parametrize("scope", ["until_executed", "until_executing"])
    def test_one_whose_lease_ran_out_takes_it_at_its_run(self, open_shop: OpenShop, key: str, scope: str) -> None:
        shop = open_shop()
        task = shop.task(scope=scope, ttl=0.3)
        first = task.delay(key)
        eventually(lambda: not shop.lock(key).locked(), SOON)
        second = task.delay(key)
        assert second.id != first.id
        shop.start_worker(pool="solo")
        assert [result.get(timeout=SOON) for result in (first, second)] == [key, key]
        assert not left_over(shop, key)


@pytest.mark.slow
def test_promise_17_beat_goes_on_when_a_key_is_held(shop: Shop, key: str, tmp_path: Path) -> None:
    policies = ("existing", "raise", "skip")
    names = {policy: shop.task(scope="until_executed", on_contention=policy).name for policy in policies}
    entries = {policy: {"task": name, "schedule": 0.1, "args": [f"{key}-{policy}"]} for policy, name in names.items()}
    (tmp_path / "beaten.py").write_text(
        "import os\n"
        "from tests.tasks.shop import make_app\n"
        "app = make_app(os.environ)\n"
        f"app.conf.beat_schedule = {entries!r}\n"
    )
    environment = {**os.environ, **shop.variables, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "celery", "-A", "beaten", "beat", "--schedule", str(tmp_path / "schedule")]
    log = tmp_path / "log"
    locks = [shop.lock(f"{key}-{policy}").acquire() for policy in policies]
    with log.open("wb") as output, subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=output) as beat:
        try:
            eventually(lambda: log.read_text().count("is not available") >= 9, SOON)
            for lease in locks:
                lease.release()
            for policy in policies:
                begun(shop, f"{key}-{policy}", 2)
            assert beat.poll() is None
        finally:
            beat.terminate()


class TestReplace:
    @pytest.mark.parametrize("scope", CALL_SCOPES)
    def test_an_older_message_is_dropped_when_it_comes(self, shop: Shop, key: str, scope: str) -> None:
        first = shop.task(scope=scope, on_contention="replace").apply_async((key,), countdown=1.5)
        second = shop.task(scope=scope, on_contention="replace").delay(key)
        assert second.get(timeout=SOON) == key
        assert Skipped.of(first.get(timeout=SOON)) is not None
        assert [stretch.task_id for stretch in shop.journal.stretches(key)] == [second.id]

    def test_a_run_is_aborted(self, shop: Shop, key: str) -> None:
        first = shop.task(scope="until_executed", on_contention="replace").delay(key, seconds=60)
        begun(shop, key)
        second = shop.task(scope="until_executed", on_contention="replace").delay(key)
        with pytest.raises(LockLost) as caught:
            first.get(timeout=SOON)
        assert caught.value.reason == "replaced"
        assert second.get(timeout=SOON) == key

    def test_a_run_replaces_a_run(self, shop: Shop, key: str) -> None:
        first = shop.task(on_contention="replace").delay(key, seconds=60)
        begun(shop, key)
        assert shop.task(on_contention="replace").delay(key).get(timeout=SOON) == key
        with pytest.raises(LockLost) as caught:
            first.get(timeout=SOON)
        assert caught.value.reason == "replaced"
        fences = [stretch.fence for stretch in shop.journal.stretches(key)]
        assert fences == sorted(set(fences))
        assert len(shop.journal.entries("lost", key=key, reason="replaced")) == 1


class TestPromise06SwallowedRetries:
    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize(("kind", "error"), [("retries", MaxRetriesExceededError), ("autoretries", ValueError)])
    def test_promise_06_every_retry_runs_and_nothing_is_left(
        self, shop: Shop, key: str, kind: str, error: type[Exception], scope: str
    ) -> None:
        result = shop.task(kind, scope=scope).delay(key)
        with pytest.raises(error):
            result.get(timeout=SOON)
        assert result.state == "FAILURE"
        assert [entry["retries"] for entry in shop.journal.entries("begin", key=key)] == [0, 1, 2, 3]
        assert scope == "until_expired" or not left_over(shop, key)

    @pytest.mark.parametrize("scope", SCOPES)
    @pytest.mark.parametrize("how", ["reject", "ignore"])
    def test_promise_06_reject_and_ignore_leave_nothing(self, shop: Shop, key: str, how: str, scope: str) -> None:
        shop.task("ends_with", scope=scope).delay(key, how)
        begun(shop, key)
        eventually(lambda: scope == "until_expired" or not left_over(shop, key), SOON)
        assert len(shop.journal.stretches(key)) == 1

    def test_until_executing_retries_while_the_next_call_waits(self, shop: Shop, key: str) -> None:
        assert (
            shop.task("calls_itself", scope="until_executing", on_contention={"run": "skip"})
            .delay(key)
            .get(timeout=SOON)
            == key
        )
        assert len(shop.journal.stretches(key)) == 2
        assert shop.lock(key).locked(), "nobody waited"

    @pytest.mark.slow
    def test_until_executed_keeps_the_key_between_its_retries(self, shop: Shop, key: str) -> None:
        result = shop.task("retries_later", scope="until_executed").delay(key, 6)  # longer than the ttl
        eventually(lambda: result.state == "RETRY", SOON)
        (holder,) = shop.lock(key).holders()
        assert holder.expires_in > 6
        assert (holder.state, holder.worker, holder.task_id) == ("called", None, result.id), "it is no run"
        (first,) = shop.journal.stretches(key)
        assert first.end is not None
        while time.monotonic() < first.end + 5.3:  # the ttl is over then, and the retry has not begun
            assert shop.task("retries_later", scope="until_executed").delay(key, 6).id == result.id
            time.sleep(0.02)  # others need the processor
        assert result.get(timeout=SOON) == key
        assert len(shop.journal.stretches(key)) == 2
        assert not left_over(shop, key)


class TestPromise05Redelivery:
    @pytest.mark.slow
    def test_promise_05_a_message_delivered_twice_runs_once_at_a_time(self, open_shop: OpenShop, key: str) -> None:
        """In every scope at the same time: the broker delivers a message again whose run takes longer than 2 s."""
        shop = open_shop(SHOP_VISIBILITY="2")
        for _ in range(2):
            shop.start_worker(concurrency=len(SCOPES))
        results = {}
        for scope in SCOPES:
            task = shop.task(scope=scope, acks_late=True, reject_on_worker_lost=True)
            results[f"{key}-{scope}"] = task.delay(f"{key}-{scope}", seconds=7)

        def deliveries(task_id: str) -> int:
            return sum(worker.logs().count(f"[{task_id}] received") for worker in shop.worker_cluster)

        for own, result in results.items():
            begun(shop, own)
            eventually(lambda id=result.id: deliveries(id) > 1, SOON, "not redelivered")
            assert result.get(timeout=SOON) == own
            assert shop.journal.most_at_once(own) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("scope", SCOPES)
    def test_promise_05_a_copy_takes_over_when_the_first_died(self, shop: Shop, key: str, scope: str) -> None:
        result = shop.task(scope=scope, acks_late=True, reject_on_worker_lost=True).delay(key, seconds=2)
        begun(shop, key)
        first = shop.journal.stretches(key)[0]
        os.kill(first.pid, signal.SIGKILL)
        died = time.monotonic()
        assert result.get(timeout=SOON) == key
        second = [stretch for stretch in shop.journal.stretches(key) if stretch.end is not None]
        assert [stretch.task_id for stretch in second] == [result.id]
        assert second[0].begin > died


class TestPromise16NeverRun:
    #: Seconds within which the key must be free.
    FREE = 2.0

    def freed(self, shop: Shop, key: str, since: float, call: bool = False) -> None:
        eventually(lambda: not tokens(shop, key, call), SOON)
        assert time.monotonic() - since < self.FREE

    @pytest.mark.slow
    @pytest.mark.parametrize("scope", ["until_executed", "until_executing", "until_and_while_executing"])
    @pytest.mark.parametrize("where", ["in the queue", "in the worker"])
    def test_promise_16_revoked_before_the_start_it_is_free(
        self, one_worker: Shop, key: str, scope: str, where: str, blocker: Blocker
    ) -> None:
        shop, call = one_worker, scope == "until_and_while_executing"
        if where == "in the queue":
            for number in range(3):  # more than a worker takes
                shop.task().delay(f"{key}-{number}", until=blocker.until)
            begun(shop, f"{key}-0")
        task = shop.task(scope=scope, ttl=LONG_TTL)
        result = task.apply_async((key,), countdown=30 if where == "in the worker" else None)
        assert tokens(shop, key, call)
        if where == "in the worker":
            shop.worker.wait_for_log(f"{task.name}[{result.id}] received")
        revoked = time.monotonic()
        result.revoke()
        self.freed(shop, key, revoked, call)
        assert task.delay(key, until=blocker.until).id != result.id, "it is no existing result any more"
        blocker.end()
        if where == "in the queue":
            with pytest.raises(TaskRevokedError):
                result.get(timeout=SOON)

    @pytest.mark.slow
    def test_promise_16_a_revoke_leaves_the_run_and_other_tasks_alone(
        self, one_worker: Shop, key: str, blocker: Blocker
    ) -> None:
        shop = one_worker
        result = shop.task(scope="until_executed", ttl=LONG_TTL).delay(key, until=blocker.until)
        begun(shop, key)
        shop.app.control.revoke(["nobody", result.id], reply=True, timeout=SOON, limit=1)
        assert holder_ids(shop, key) == [result.id]
        blocker.end()
        assert result.get(timeout=SOON) == key

    @pytest.mark.slow
    def test_promise_16_a_revoke_by_a_stamp_releases_it_when_the_message_comes(
        self, one_worker: Shop, key: str
    ) -> None:
        shop = one_worker
        shop.app.control.revoke_by_stamped_headers({"mine": "7"}, reply=True, timeout=SOON, limit=1)
        sent = time.monotonic()
        shop.task(scope="until_executed", ttl=LONG_TTL).apply_async((key,), mine="7", stamped_headers=["mine"])
        self.freed(shop, key, sent)
        assert not shop.journal.stretches(key)

    @pytest.mark.slow
    def test_promise_16_until_expired_is_left_alone(self, one_worker: Shop, key: str) -> None:
        shop = one_worker
        task = shop.task(scope="until_expired", ttl=LONG_TTL)
        result = task.apply_async((key,), countdown=1)
        result.revoke()
        shop.worker.wait_for_log(f"Discarding revoked task: {task.name}[{result.id}]")
        assert holder_ids(shop, key) == [result.id]

    @pytest.mark.slow
    def test_promise_16_revoked_between_retries_it_is_free(self, one_worker: Shop, key: str) -> None:
        shop = one_worker
        result = shop.task("retries_later", scope="until_executed", ttl=LONG_TTL).delay(key, 30)
        eventually(lambda: result.state == "RETRY", SOON)
        assert tokens(shop, key)
        revoked = time.monotonic()
        result.revoke()
        self.freed(shop, key, revoked)

    @pytest.mark.slow
    def test_promise_16_expired_before_the_start_it_is_free(self, open_shop: OpenShop, key: str) -> None:
        shop = open_shop()
        result = shop.task(scope="until_executed", ttl=LONG_TTL).apply_async((key,), expires=1)
        sent = time.monotonic()
        eventually(lambda: time.monotonic() - sent > 1)
        self.freed(shop, key, sent + 1)
        shop.start_worker(pool="solo")
        with pytest.raises(TaskRevokedError):
            result.get(timeout=SOON)

    def test_promise_16_purged_it_is_free_at_its_ttl(self, open_shop: OpenShop, key: str) -> None:
        shop = open_shop()
        task = shop.task(scope="until_executed", ttl=1.5)
        first = task.delay(key)
        sent = time.monotonic()
        shop.app.control.purge()
        while time.monotonic() - sent < 0.8:
            assert task.delay(key).id == first.id
            time.sleep(0.02)  # others need the processor
        eventually(lambda: task.delay(key).id != first.id, SOON)
        assert time.monotonic() - sent < 1.5 + 1

    @pytest.mark.slow
    def test_promise_16_unknown_to_the_worker_it_is_free(self, open_shop: OpenShop, key: str) -> None:
        shop = open_shop()
        options = {"base": LockedTask, "lock_scope": "until_executed", "lock_ttl": LONG_TTL, "shared": False}

        def only_here() -> None: ...

        shop.app.task(only_here, lock_key="odd", **options).delay()
        assert shop.lock("odd").locked()
        shop.start_worker(pool="solo")
        eventually(lambda: not shop.lock("odd").locked(), SOON)


class TestPromise18Canvas:
    @pytest.mark.parametrize("policy", ["existing", "skip"])
    def test_promise_18_a_refused_member_does_not_stop_chain_or_chord(
        self, shop: Shop, key: str, policy: str, blocker: Blocker
    ) -> None:
        first = shop.task(scope="until_executed", on_contention=policy).delay(key, until=blocker.until)
        member, then = shop.task(scope="until_executed", on_contention=policy).si(key), shop.task("then")
        results = [
            chain(member.clone(), then.s("then")).apply_async(),
            chain(then.si("first"), member.clone()).apply_async(),
            chain(then.si("first"), member.clone(), then.s("then")).apply_async(),
            chord([member.clone(), then.si("free")], shop.task("add_up").s()).apply_async(),
            chord([then.si("free"), then.si("more")], member.clone()).apply_async(),
            group(member.clone(), member.clone()).apply_async(),
        ]
        for result in results:
            assert first.id in str(result.get(timeout=SOON))
        blocker.end()
        assert first.get(timeout=SOON) == key
        assert len(shop.journal.stretches(key)) == 1

    def test_promise_18_raise_calls_the_errbacks(self, shop: Shop, key: str, blocker: Blocker) -> None:
        first = shop.task(scope="until_executed", on_contention="raise").delay(key, until=blocker.until)
        error, then = shop.task("on_error").s(), shop.task("then")
        member = shop.task(scope="until_executed", on_contention="raise").si(key)
        in_chain = chain(then.si("first"), member.clone().on_error(error), then.s()).apply_async()
        in_chord = chord([member.clone(), then.si("free")], shop.task("add_up").s().on_error(error)).apply_async()
        with pytest.raises(LockContended):
            in_chain.parent.get(timeout=SOON)
        with pytest.raises((LockContended, ChordError)):
            in_chord.get(timeout=SOON)
        eventually(lambda: shop.journal.entries("errback", task_id=in_chain.parent.id), SOON)
        blocker.end()
        assert first.get(timeout=SOON) == key


def test_a_copy_of_a_message_parks_like_others(shop: Shop, key: str) -> None:
    task = shop.task(on_contention="park", scope="until_executed")
    stranger = Celery("stranger", broker=shop.app.conf.broker_url, backend=shop.app.conf.result_backend)
    with shop.lock(key):
        result = stranger.send_task(task.name, (key,))
        eventually(lambda: result.state == "WAITING", SOON)
    assert result.get(timeout=SOON) == key
    assert task.delay(key).get(timeout=SOON) == key
    assert not left_over(shop, key)
