"""What becomes of tickets and leases when a delivery is interrupted, rejected, repeated, or comes after a deploy."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kombu
import pytest
from celery import states
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, WorkerTerminate
from kombu.exceptions import OperationalError

from celery_locks import Lock, LockedTask
from celery_locks.tasks.marks import check_app
from celery_locks.tasks.policies import park
from tests.support.waiting import eventually
from tests.tasks.conftest import Database
from tests.tasks.deliveries import StepWorker

pytestmark = pytest.mark.usefixtures("no_shared_tasks")

#: Seconds within which something must come about; what is slow here is the machine, not the lock.
SOON = 30
PARKS: dict[str, Any] = {"base": LockedTask, "shared": False, "lock_key": "k:<n>", "lock_on_contention": "park"}


@pytest.fixture
def open_worker(databases: Iterator[Database]) -> Iterator[Callable[..., StepWorker]]:
    """Opens a worker with the settings of its app."""
    workers = list[StepWorker]()

    def open_(**conf: Any) -> StepWorker:
        workers.append(StepWorker(next(databases).url, **conf))
        return workers[-1]

    yield open_
    for worker in workers:
        worker.close()


@pytest.fixture
def worker(open_worker: Callable[..., StepWorker]) -> StepWorker:
    """A worker whose tasks acknowledge early."""
    return open_worker()


@pytest.fixture
def late_worker(open_worker: Callable[..., StepWorker]) -> StepWorker:
    """A worker whose tasks acknowledge late."""
    return open_worker(task_acks_late=True)


def stop_worker(*args: Any, **kwargs: Any) -> None:
    """Raise what a cold shutdown raises in a solo pool."""
    raise WorkerTerminate(1)


def assert_ended(worker: StepWorker, state: str = "done") -> None:
    """Check that the one ticket of ``k:1`` has this state, and that nothing runs or dispatches it any more."""
    assert worker.tickets("k:1") == [state]
    assert worker.sweep() == 0
    assert worker.contents() == []
    assert not worker.locks.lock("k:1").locked()
    assert worker.parking.waiting(worker.locks._space.name("k:1")) == 0


# --- Ends of runs ---


def test_a_shutdown_while_the_result_is_stored_does_not_finish_the_ticket(
    late_worker: StepWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, runs = late_worker, list[int]()

    @worker.app.task(**PARKS)
    def work(n: int) -> str:
        runs.append(n)
        return "worked"

    result, message = worker.dispatch("k:1", lambda: work.delay(1))
    with monkeypatch.context() as patch:
        patch.setattr(type(worker.app.backend), "mark_as_done", stop_worker)
        assert worker.execute(message) == ["WorkerTerminate"]
    assert worker.tickets("k:1") == ["ended"]
    assert result.state != states.SUCCESS
    assert worker.execute(worker.receive_again(message)) == ["ack"]
    assert result.get(timeout=SOON) == "worked"
    assert runs == [1, 1]
    assert_ended(worker)


def fail_before_the_body(worker: StepWorker) -> tuple[Any, list[int], list[Exception]]:
    """Return a task, what it has run with, and the errors that its ``before_start`` raises next."""
    runs, errors = list[int](), list[Exception]()

    class Prepared(LockedTask):
        abstract = True

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            if errors:
                raise errors.pop()

    @worker.app.task(**{**PARKS, "base": Prepared})
    def work(n: int) -> str:
        runs.append(n)
        return "worked"

    return work, runs, errors


def test_a_failure_before_the_body_that_is_not_acknowledged_runs_again(
    open_worker: Callable[..., StepWorker],
) -> None:
    worker = open_worker(task_acks_late=True, task_acks_on_failure_or_timeout=False)
    work, runs, errors = fail_before_the_body(worker)
    result, message = worker.dispatch("k:1", lambda: work.delay(1))
    [content] = worker.contents()
    errors.append(OSError("the database is away"))
    assert worker.execute(message) == ["reject"]
    assert runs == []
    assert worker.tickets("k:1") == ["dispatched"]
    assert worker.execute(worker.receive_from_dead_letters(content)) == ["ack"]
    assert result.get(timeout=SOON) == "worked"
    assert runs == [1]
    assert_ended(worker)


def test_a_failure_before_the_body_that_is_acknowledged_ends_its_ticket(late_worker: StepWorker) -> None:
    worker = late_worker
    work, runs, errors = fail_before_the_body(worker)
    result, message = worker.dispatch("k:1", lambda: work.delay(1))
    errors.append(OSError("the database is away"))
    assert worker.execute(message) == ["ack"]
    assert result.state == states.FAILURE
    assert runs == []
    assert_ended(worker)


def test_a_rejected_message_of_an_owed_run_is_not_parked_again(late_worker: StepWorker) -> None:
    worker, ends = late_worker, [*[Reject("bad input", requeue=False)] * 2, WorkerTerminate(1)]

    @worker.app.task(**PARKS)
    def work(n: int) -> None:
        raise ends.pop()

    _, message = worker.dispatch("k:1", lambda: work.delay(1))
    assert worker.execute(message) == ["WorkerTerminate"]
    assert worker.execute(worker.receive_older_copy()) == ["reject"]
    assert worker.tickets("k:1") == ["ended"]
    assert worker.execute(worker.receive_again(message)) == ["reject"]
    assert ends == []
    assert_ended(worker, "ended")


def test_a_task_that_releases_its_key_when_it_begins_runs_once_for_each_delivery(late_worker: StepWorker) -> None:
    worker, runs, ends = late_worker, list[list[str | None]](), [WorkerTerminate(1)]

    @worker.app.task(**{**PARKS, "lock_scope": "until_executing", "lock_on_contention": {"run": "park"}})
    def work(n: int) -> str:
        runs.append(worker.tickets("k:1"))
        assert not worker.locks.lock("k:1").locked()
        if ends:
            raise ends.pop()
        return "worked"

    # By its name: a call of the task itself would acquire a lease, and meet the holder.
    result, message = worker.dispatch("k:1", lambda: worker.app.send_task(work.name, (1,)))
    assert worker.execute(message) == ["WorkerTerminate"]
    assert worker.execute(worker.receive_older_copy()) == ["ack"]
    assert result.get(timeout=SOON) == "worked"
    assert worker.execute(worker.receive_again(message)) == ["ack"], "it is dropped: its task is done"
    assert runs == [["ended"], ["ended"]], "a ticket that is parked during the body is dispatched for a third run"
    assert_ended(worker)


# --- Copies ---


def test_a_copy_that_is_interrupted_at_its_entry_leaves_the_run_of_another_alone(
    late_worker: StepWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, began, goes_on = late_worker, threading.Event(), threading.Event()

    @worker.app.task(**PARKS)
    def work(n: int) -> str:
        began.set()
        assert goes_on.wait(SOON)
        return "worked"

    def interrupt(*args: Any) -> None:
        raise SoftTimeLimitExceeded

    result, message = worker.dispatch("k:1", lambda: work.delay(1))
    done = list[str]()
    run = threading.Thread(target=lambda: done.extend(worker.execute(message)))
    run.start()
    try:
        assert began.wait(SOON)
        with monkeypatch.context() as patch:
            patch.setattr(Lock, "_enter", interrupt)
            assert worker.execute(worker.receive_copy()) == ["ack"]
        assert worker.tickets("k:1") == ["running"]
        assert worker.locks.lock("k:1").locked()
    finally:
        goes_on.set()
        run.join()
    assert done == ["ack"]
    assert result.get(timeout=SOON) == "worked"
    assert_ended(worker)


def test_a_dispatched_task_whose_ticket_was_evicted_runs(worker: StepWorker) -> None:
    @worker.app.task(**PARKS)
    def work(n: int) -> str:
        return "worked"

    result, message = worker.dispatch("k:1", lambda: work.delay(1))
    worker.evict_tickets("k:1")
    assert worker.execute(message) == ["ack"]
    assert result.get(timeout=SOON) == "worked"
    assert not worker.locks.lock("k:1").locked()


@contextmanager
def unpublished(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Have the broker's client fail to publish what comes later. Yield the attempts."""
    attempts, publish_later = list[Any](), park.publish_later

    def fail(*args: Any, **kwargs: Any) -> None:
        attempts.append(args)
        raise error

    def broken(*args: Any, **kwargs: Any) -> float:
        with monkeypatch.context() as patch:
            patch.setattr(kombu.Producer, "_publish", fail)
            return publish_later(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(park, "publish_later", broken)
        yield attempts


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError("the connection was reset"), OperationalError("the broker is away"), RuntimeError("odd")],
    ids=lambda error: type(error).__name__,
)
def test_a_safety_copy_that_is_not_published_changes_nothing(
    worker: StepWorker, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = list[int]()

    @worker.app.task(**PARKS, lock_park_safety_copy=60)
    def work(n: int) -> str:
        runs.append(n)
        return "worked"

    with unpublished(error, monkeypatch) as attempts:
        result = worker.park("k:1", lambda: work.delay(1))
    assert attempts
    assert result.state == "WAITING"
    assert f"the safety copy of {work.name}[{result.id}] was not published: " in caplog.text
    assert worker.sweep() == 1
    assert worker.execute(worker.receive()) == ["ack"]
    assert result.get(timeout=SOON) == "worked"
    assert runs == [1]
    assert_ended(worker)


# --- Deploys ---


@pytest.mark.parametrize(
    ("call", "deployed"),
    [
        ({"lock_max_waiters": 5}, {"lock_on_contention": "retry"}),
        ({"lock_renew": 10}, {"lock_ttl": 15}),
    ],
    ids=["max_waiters", "renew"],
)
def test_options_of_a_call_that_no_longer_fit_after_a_deploy_are_left_out(
    worker: StepWorker, call: dict[str, Any], deployed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    runs = list[int]()

    def work(n: int) -> str:
        runs.append(n)
        return "worked"

    parks = worker.app.task(work, name="work", **PARKS)
    result = worker.park("k:1", lambda: parks.apply_async((1,), **call))
    worker.deploy().task(work, name="work", **{**PARKS, **deployed})
    assert worker.sweep() == 1
    assert worker.execute(worker.receive()) == ["ack"]
    assert result.get(timeout=SOON) == "worked"
    assert runs == [1]
    assert "an option in a message of work is ignored: " in caplog.text
    assert_ended(worker)


def test_an_expired_message_of_a_task_that_is_no_longer_locked_ends_its_ticket(worker: StepWorker) -> None:
    def work(n: int) -> None:
        raise AssertionError("it has expired")

    parks = worker.app.task(work, name="work", **PARKS)
    with worker.locks.lock("k:1", ttl=60):  # so that it is dispatched when it expires, not before
        result = parks.apply_async((1,), expires=3)
        assert worker.execute(worker.receive()) == ["ack"]
        assert worker.tickets("k:1") == ["parked"]
        worker.deploy().task(work, name="work", shared=False)
        eventually(lambda: worker.sweep() == 1, SOON)
    message = worker.receive()
    assert worker.execute(message) == ["ack"]
    assert result.state == states.REVOKED
    assert_ended(worker)


def test_the_ticket_of_a_task_that_is_no_longer_locked_ends_before_its_body(worker: StepWorker) -> None:
    """A long body would outlive the deadline of its dispatch, and a sweep would dispatch it again."""
    tickets = list[list[str | None]]()

    def work(n: int) -> str:
        tickets.append(worker.tickets("k:1"))
        return "worked"

    parks = worker.app.task(work, name="work", **PARKS)
    result = worker.park("k:1", lambda: parks.delay(1))
    worker.deploy().task(work, name="work", shared=False)
    assert worker.sweep() == 1
    assert worker.execute(worker.receive()) == ["ack"]
    assert result.get(timeout=SOON) == "worked"
    assert tickets == [["done"]]
    assert_ended(worker)


# --- Contention policies, and marks ---


def test_a_policy_that_raises_ignore_leaves_no_lease_of_its_call(worker: StepWorker) -> None:
    def ignore(contention: Any) -> None:
        raise Ignore

    scope = {"lock_scope": "until_and_while_executing", "lock_on_contention": {"run": ignore}}

    @worker.app.task(**{**PARKS, **scope})
    def work(n: int) -> None: ...

    with worker.locks.lock("k:1", ttl=60):
        first = work.delay(1)
        assert work.delay(1).id == first.id, "the call's lease is held until its run begins"
        assert worker.execute(worker.receive()) == ["ack"]
    assert work.delay(1).id != first.id


def test_a_foreign_proxy_in_a_closure_keeps_no_worker_from_starting(worker: StepWorker) -> None:
    class RequestProxy:
        """Like that of a web framework: it is callable, and raises outside of a request."""

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("there is no request")

        def __call__(self) -> None: ...

    def with_request(function: Callable[..., Any], request: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any) -> Any:
            return function(*args) if request else None

        return wrapped

    def work() -> None: ...

    worker.app.task(with_request(work, RequestProxy()), shared=False)
    check_app(worker.app)
