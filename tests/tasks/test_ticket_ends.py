"""When the ticket of a parked task is done: after its result is stored, however its task ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import states
from celery.exceptions import TaskRevokedError

from celery_locks import LockTimeout
from celery_locks.stores.parking import Parking
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.publish import publish_dispatched
from tests.support.waiting import eventually
from tests.tasks.conftest import Database
from tests.tasks.service import Service, deliver_again, messages_at

#: Seconds within which a result must be there; what is slow here is the machine, not the lock.
SOON = 100


@pytest.fixture
def service(tmp_path: Path, databases: Iterator[Database]) -> Iterator[Service]:
    with ExitStack() as stack:
        service = Service(tmp_path, next(databases).url)
        stack.push(service.stack)
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Any]:
    with redis.Redis.from_url(service.url, decode_responses=True) as client:
        yield client


def states_of_tickets(service: Service, client: Any, key: str) -> list[str]:
    return [client.hget(record, "state") for record in client.keys(f"{service.locks._space.name(key)}:ticket:*")]


WAITS = """
from celery_locks import signals

@app.task(base=LockedTask, lock_key="k", lock_on_contention="park", lock_max_wait={wait}, acks_late={late})
def work(): note("ran")
"""


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_a_ticket_that_waited_too_long_is_done_when_its_task_has_failed(
    service: Service, client: Any, late: bool
) -> None:
    work = service.deploy(WAITS.format(wait=1, late=late)).work
    service.start_worker()
    with service.locks.lock("k", ttl=60):
        result = work.delay()
        with pytest.raises(LockTimeout):
            result.get(timeout=SOON)
        eventually(lambda: states_of_tickets(service, client, "k") == ["done"], SOON, "its ticket is left")


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_a_ticket_that_was_withdrawn_is_done_when_its_task_is_revoked(
    service: Service, client: Any, late: bool
) -> None:
    """By another process than a worker: no worker knows that the task is revoked."""
    work = service.deploy(WAITS.format(wait=60, late=late)).work
    service.start_worker()
    with service.locks.lock("k", ttl=60):
        result = work.delay()
        eventually(lambda: service.waiting("k") == 1, SOON)
        store = service.locks.store
        assert isinstance(store, Parking)
        dispatches = store.withdraw(service.locks.prefix, broker_id(service.app), result.id)
        publish_dispatched(service.app, store, dispatches)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=SOON)
        eventually(lambda: states_of_tickets(service, client, "k") == ["done"], SOON, "its ticket is left")


def test_a_late_failure_that_is_not_acknowledged_ends_a_ticket_that_waited_too_long(
    service: Service, client: Any
) -> None:
    source = WAITS.format(wait=1, late="True, acks_on_failure_or_timeout=False")
    work = service.deploy(source).work
    service.start_worker()
    with service.locks.lock("k", ttl=60):
        with pytest.raises(LockTimeout):
            work.delay().get(timeout=SOON)
        eventually(lambda: states_of_tickets(service, client, "k") == ["done"], SOON, "it is published for ever")


def test_a_worker_that_dies_before_it_stores_a_timeout_leaves_that_to_another(service: Service) -> None:
    source = """
def die(**_):
    if not Journal(URL).entries("died"):
        note("died")
        os.kill(os.getpid(), 9)

signals.on_lock_timed_out.connect(die, weak=False)
"""
    work = service.deploy(WAITS.format(wait=1, late=True) + source, task_reject_on_worker_lost=True).work
    service.start_worker()
    with service.locks.lock("k", ttl=60):
        result = work.delay()
        with pytest.raises(LockTimeout):
            result.get(timeout=SOON)
    assert service.notes("died")


def test_each_dispatch_has_its_number_in_the_message(service: Service) -> None:
    work = service.deploy(WAITS.format(wait=60, late=True), locks_call_ttl=0.2).work
    worker = service.start_worker()
    with service.locks.lock("k", ttl=60):
        work.delay()
        eventually(lambda: service.waiting("k") == 1, SOON)
        worker.container.stop(20)
    locks, app = service.locks, service.app
    store, broker = locks.store, broker_id(app)
    assert isinstance(store, Parking)

    def numbers() -> list[int]:
        publish_dispatched(app, store, store.sweep(locks.prefix, broker))
        return [message["headers"]["celery_locks"]["count"] for message in messages_at(service.url)]

    eventually(lambda: sorted(numbers()) == [1, 2, 3], SOON)


class TestCopies:
    """A copy of a message that a worker which lost its connection runs, with late acknowledgement."""

    SOURCE = """
@app.task(base=LockedTask, lock_key="k", lock_on_contention="park", lock_ttl=3, acks_late=True)
def work(hang):
    note("began")
    end = time.monotonic() + (60 if hang and len(Journal(URL).entries("began")) == 1 else 0)
    while time.monotonic() < end:
        time.sleep(0.02)
    note("ran")
    return "worked"
"""

    def park_and_deliver_a_copy(self, service: Service, client: Any, hang: bool) -> Any:
        """Park a task, dispatch it, lose what was published, and deliver a copy of its first message."""
        work = service.deploy(self.SOURCE, locks_sweep_interval=0.5).work
        with service.locks.lock("k", ttl=60):
            result = work.delay(hang)
            [message] = messages_at(service.url)
            worker = service.start_worker()
            eventually(lambda: service.waiting("k") == 1, SOON)
            worker.container.stop(20)
        store = service.locks.store
        assert isinstance(store, Parking)
        store.sweep(service.locks.prefix, broker_id(service.app))
        assert states_of_tickets(service, client, "k") == ["dispatched"]
        client.delete("celery")
        deliver_again(service.url, message, redelivered=False)  # as the first copy is
        return result

    def test_a_copy_that_runs_what_another_parked_runs_once(self, service: Service, client: Any) -> None:
        result = self.park_and_deliver_a_copy(service, client, hang=False)
        service.start_worker()
        assert result.get(timeout=SOON) == "worked"
        eventually(lambda: states_of_tickets(service, client, "k") == ["done"], SOON, "its ticket is left")
        assert len(service.notes("ran")) == 1

    def test_a_run_that_dies_without_a_copy_at_the_broker_runs_again(self, service: Service, client: Any) -> None:
        result = self.park_and_deliver_a_copy(service, client, hang=True)
        worker = service.start_worker()
        eventually(lambda: service.notes("began"), SOON)
        client.delete("unacked", "unacked_index", "celery")  # acknowledged with another copy
        assert messages_at(service.url) == []
        worker.kill()
        service.start_worker()
        assert result.get(timeout=SOON) == "worked"
        assert result.state == states.SUCCESS
        assert len(service.notes("began")) == 2
