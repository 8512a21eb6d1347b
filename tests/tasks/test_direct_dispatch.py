"""Direct dispatch: the worker whose run releases a key runs the next parked task itself, without a message."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import celery
import pytest
import redis
from celery.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from celery.result import AsyncResult

from celery_locks import LockConfigError
from celery_locks.tasks.settings_check import check_settings
from tests.support.celery_worker import Worker
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitServer
from tests.support.waiting import eventually
from tests.tasks.conftest import Database
from tests.tasks.service import Service

#: Seconds within which a result must be there; what is slow here is the machine, not the lock.
SOON = 100

#: ``hold`` keeps a key until a file exists. Each run notes whether a broker (of Redis) delivered its message.
TASKS = """
LOCKED = dict(base=LockedTask, lock_key="<key>", lock_on_contention="park", lock_ttl=10, bind=True)

def begin(self, key, n):
    note("begin", key=key, n=n, pid=os.getpid(), worker=self.request.hostname,
         direct="delivery_tag" not in self.request.properties)

def wait_for(path):
    end = time.monotonic() + 90
    while not os.path.exists(path):
        assert time.monotonic() < end, path
        time.sleep(0.01)

@app.task(**LOCKED)
def hold(self, key, path):
    begin(self, key, "hold")
    wait_for(path)

@app.task(**LOCKED)
def work(self, key, n, path=None):
    begin(self, key, n)
    if path:
        wait_for(path)
    return n

@app.task(bind=True)
def occupy(self, path):
    note("occupied", path=path)
    wait_for(path)
"""


class Line:
    """Tasks that park behind a run, which ends when they are all in line."""

    def __init__(self, service: Service, key: str, folder: Path) -> None:
        self.service = service
        self.key = key
        self.go = folder / f"go-{key}"
        self.holder = service.tasks.hold.delay(key, str(self.go))
        eventually(lambda: service.notes("begin", key=key), SOON, "the holder did not begin")

    def park(self, call: Callable[[], AsyncResult]) -> AsyncResult:
        """Call a task, and wait until it is in line."""
        before = self.service.waiting(self.key)
        result = call()
        eventually(lambda: self.service.waiting(self.key) == before + 1, SOON, "a task did not park")
        return result

    def numbers(self, count: int) -> list[AsyncResult]:
        """Park tasks that note and return their number."""
        return [self.park(lambda n=n: self.service.tasks.work.delay(self.key, n)) for n in range(count)]

    def begun(self) -> list[dict[str, Any]]:
        """Return what the runs noted, without the holder's."""
        return [note for note in self.service.notes("begin", key=self.key) if note["n"] != "hold"]

    def free(self) -> None:
        """Let the holder end."""
        self.go.touch()


@pytest.fixture
def open_service(tmp_path: Path, databases: Iterator[Database]) -> Iterator[Callable[..., Service]]:
    """Opens services, each on databases of its own unless they are given."""
    with ExitStack() as stack:

        def open_(source: str = TASKS, broker: str = "", **conf: Any) -> Service:
            service = Service(tmp_path, next(databases).url, **({"broker": broker} if broker else {}))
            stack.push(service.stack)
            service.deploy(source, **conf)
            return service

        yield open_


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet"])
@pytest.mark.parametrize(
    "early", [True, pytest.param(False, marks=pytest.mark.exhaustive)], ids=["early", "in the pool"]
)
def test_the_releasing_worker_runs_the_line_in_order(
    open_service: Callable[..., Service], tmp_path: Path, pool: str, early: bool
) -> None:
    service = open_service(locks_park_before_pool=early)
    service.start_worker(pool=pool, concurrency=3)
    line = Line(service, "k", tmp_path)
    results = line.numbers(6)
    line.free()
    assert [result.get(timeout=SOON) for result in results] == list(range(6))
    assert [(note["n"], note["direct"]) for note in line.begun()] == [(n, True) for n in range(6)]
    eventually(lambda: not service.locks.lock("k").locked(), SOON)


def test_a_solo_worker_runs_the_line_in_order(open_service: Callable[..., Service], tmp_path: Path) -> None:
    """Its one thread parks nothing while a task runs there. So the test holds the key."""
    service = open_service()
    service.start_worker(pool="solo")
    results = service.park("k", *(lambda n=n: service.tasks.work.delay("k", n) for n in range(4)))
    assert [result.get(timeout=SOON) for result in results] == list(range(4))
    # The test's process has released the key, so the sweeper published the first message.
    begun = [(note["n"], note["direct"]) for note in service.notes("begin", key="k")]
    assert begun == [(0, False), (1, True), (2, True), (3, True)]


def published(open_service: Callable[..., Service], tmp_path: Path, options: dict[str, Any], **conf: Any) -> None:
    service = open_service(**conf)
    service.start_worker(concurrency=3, **options)
    line = Line(service, "k", tmp_path)
    results = line.numbers(3)
    line.free()
    assert [result.get(timeout=SOON) for result in results] == [0, 1, 2]
    assert [(note["n"], note["direct"]) for note in line.begun()] == [(0, False), (1, False), (2, False)]


def test_direct_dispatch_can_be_switched_off(open_service: Callable[..., Service], tmp_path: Path) -> None:
    published(open_service, tmp_path, {}, locks_direct_dispatch=False)


def test_the_setting_is_a_truth_value() -> None:
    with pytest.raises(LockConfigError, match="locks_direct_dispatch is True or False"):
        check_settings({"locks_direct_dispatch": "yes"})


def test_spawned_children_publish(open_service: Callable[..., Service], tmp_path: Path) -> None:
    published(open_service, tmp_path, {}, worker_pool_start_method="spawn")


def test_a_task_with_a_rate_limit_is_published(open_service: Callable[..., Service], tmp_path: Path) -> None:
    published(open_service, tmp_path, {}, task_annotations={"*": {"rate_limit": "1000/s"}})


def test_a_message_too_long_for_an_offer_is_published(open_service: Callable[..., Service], tmp_path: Path) -> None:
    service = open_service()
    service.start_worker(concurrency=2)
    line = Line(service, "k", tmp_path)
    long = "x" * 400_000
    results = [line.park(lambda n=n: service.tasks.work.delay("k", n)) for n in (long, 1)]
    line.free()
    assert [result.get(timeout=SOON) for result in results] == [long, 1]
    assert [note["direct"] for note in line.begun()] == [False, True]


def test_a_worker_does_not_run_tasks_of_queues_that_it_does_not_serve(
    open_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = open_service()
    service.start_worker(concurrency=2, queues=["celery"])
    first = service.worker.hostname()
    line = Line(service, "k", tmp_path)
    service.start_worker(concurrency=2, queues=["other"])
    result = line.park(lambda: service.tasks.work.apply_async(("k", 1), queue="other"))
    line.free()
    assert result.get(timeout=SOON) == 1
    [note] = line.begun()
    assert note["worker"] != first
    assert not note["direct"]


def occupy(service: Service, worker: Worker, gate: Path) -> list[AsyncResult]:
    """Have tasks take the one slot of a worker when it is free, and the one message that it fetches ahead."""
    results = [service.tasks.occupy.delay(str(gate)) for _ in range(2)]
    eventually(lambda: f"[{results[0].id}] received" in worker.logs(), SOON)
    return results


def test_an_idle_worker_takes_over_from_one_without_a_free_slot(
    open_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = open_service()
    service.start_worker(concurrency=1)
    busy = service.worker
    line = Line(service, "k", tmp_path)
    [result] = line.numbers(1)
    gate = tmp_path / "gate"
    occupied = occupy(service, busy, gate)
    line.free()
    eventually(lambda: service.notes("occupied"), SOON)
    service.start_worker(concurrency=1)
    assert result.get(timeout=SOON) == 0
    assert line.begun()[0]["worker"] == service.worker.hostname()
    gate.touch()
    for each in occupied:
        each.get(timeout=SOON)
    eventually(lambda: not service.locks.lock("k").locked(), SOON)
    assert len(line.begun()) == 1


@pytest.mark.parametrize("options", [["--max-tasks-per-child", "1"], ["--autoscale", "4,1"]], ids=["one task", "scale"])
def test_children_that_come_and_go(open_service: Callable[..., Service], tmp_path: Path, options: list[str]) -> None:
    service = open_service()
    service.start_worker(concurrency=2, arguments=options)
    line = Line(service, "k", tmp_path)
    results = line.numbers(5)
    line.free()
    assert [result.get(timeout=SOON) for result in results] == list(range(5))
    assert [note["n"] for note in line.begun()] == list(range(5))


def test_a_warm_stop_returns_what_has_no_slot(open_service: Callable[..., Service], tmp_path: Path) -> None:
    service = open_service()
    service.start_worker(concurrency=1)
    stopping = service.worker
    line = Line(service, "k", tmp_path)
    [result] = line.numbers(1)
    gate = tmp_path / "gate"
    occupy(service, stopping, gate)
    line.free()
    eventually(lambda: service.notes("occupied"), SOON)
    os.kill(stopping.pid, signal.SIGTERM)
    service.start_worker(concurrency=1)
    assert result.get(timeout=SOON) == 0
    gate.touch()
    assert stopping.container.wait(60) == 0


def test_a_serializer_that_the_app_accepts(open_service: Callable[..., Service], tmp_path: Path) -> None:
    service = open_service(task_serializer="pickle", accept_content=["json", "pickle"])
    service.start_worker(concurrency=2, env={"C_FORCE_ROOT": "1"})
    line = Line(service, "k", tmp_path)
    results = line.numbers(2)
    line.free()
    assert [result.get(timeout=SOON) for result in results] == [0, 1]
    assert [note["direct"] for note in line.begun()] == [True, True]


def test_a_lost_connection_keeps_the_line(
    open_service: Callable[..., Service], databases: Iterator[Database], tmp_path: Path
) -> None:
    """What has no slot when the connection breaks is published, and runs when it is back."""
    broker = next(databases).url
    port = int(broker.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        service = open_service(broker=broker.replace(str(port), str(proxy.port)))
        service.start_worker(concurrency=1)
        line = Line(service, "k", tmp_path)
        results = line.numbers(3)
        gate = tmp_path / "gate"
        occupied = service.tasks.occupy.delay(str(gate))
        eventually(lambda: f"[{occupied.id}] received" in service.worker.logs(), SOON)
        line.free()
        eventually(lambda: service.notes("occupied"), SOON)
        proxy.cut()
        gate.touch()
        assert [result.get(timeout=SOON) for result in results] == [0, 1, 2]
        assert [note["n"] for note in line.begun()] == [0, 1, 2]


def test_priorities_and_the_limit_of_eta_tasks_do_not_matter_to_the_line(
    open_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = open_service(worker_eta_task_limit=2)
    service.start_worker(concurrency=2)
    line = Line(service, "k", tmp_path)
    later = [service.tasks.occupy.apply_async((str(tmp_path),), countdown=3) for _ in range(2)]
    results = [
        line.park(lambda n=n: service.tasks.work.apply_async(("k", n), priority=n, countdown=0.1)) for n in (9, 0, 5)
    ]
    line.free()
    assert [result.get(timeout=SOON) for result in results] == [9, 0, 5]
    assert [(note["n"], note["direct"]) for note in line.begun()] == [(9, True), (0, True), (5, True)]
    for result in later:
        result.get(timeout=SOON)


LATE = TASKS.replace("lock_ttl=10,", "lock_ttl=10, acks_late=True,")


def test_a_late_task_that_is_requeued_runs_again(open_service: Callable[..., Service], tmp_path: Path) -> None:
    source = """
@app.task(**LOCKED)
def requeues(self, key):
    begin(self, key, "requeues")
    if len(Journal(URL).entries("begin", key=key, n="requeues")) < 3:
        raise Reject("not yet", requeue=True)
    return "done"
"""
    service = open_service(LATE + source)
    service.start_worker(concurrency=2)
    line = Line(service, "k", tmp_path)
    result = line.park(lambda: service.tasks.requeues.delay("k"))
    line.free()
    assert result.get(timeout=SOON) == "done"
    assert [note["direct"] for note in line.begun()] == [True, False, False]
    eventually(lambda: service.waiting("k") == 0 and not service.locks.lock("k").locked(), SOON)


def free_two(service: Service, folder: Path, call: Callable[[], AsyncResult]) -> tuple[Line, AsyncResult, AsyncResult]:
    """Start a worker, park a call and a number behind it, and free their key."""
    service.start_worker(concurrency=2)
    line = Line(service, "k", folder)
    result = line.park(call)
    [after] = line.numbers(1)
    line.free()
    return line, result, after


def ticket_states(service: Service) -> list[str | None]:
    """Return the states of all tickets in the store."""
    client = redis.Redis.from_url(service.url, decode_responses=True)
    return [client.hget(ticket, "state") for ticket in client.keys("*:ticket:*")]


DIES = """
@app.task(**LOCKED)
def dies(self, key):
    begin(self, key, "dies")
    if len(Journal(URL).entries("begin", key=key, n="dies")) == 1:
        os.kill(os.getpid(), 9)
    return "done"
"""


def test_a_late_task_whose_process_dies_runs_again_if_it_is_to(
    open_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = open_service(LATE.replace("acks_late=True", "acks_late=True, reject_on_worker_lost=True") + DIES)
    line, result, after = free_two(service, tmp_path, lambda: service.tasks.dies.delay("k"))
    assert result.get(timeout=SOON) == "done"
    assert after.get(timeout=SOON) == 0
    assert [note["n"] for note in line.begun()].count("dies") == 2


def test_a_late_task_whose_process_dies_fails_otherwise(open_service: Callable[..., Service], tmp_path: Path) -> None:
    service = open_service(LATE + DIES)
    line, result, after = free_two(service, tmp_path, lambda: service.tasks.dies.delay("k"))
    with pytest.raises(WorkerLostError):
        result.get(timeout=SOON)
    assert after.get(timeout=SOON) == 0
    assert service.tasks.work.delay("k", 9).get(timeout=SOON) == 9
    assert [note["n"] for note in line.begun()].count("dies") == 1
    assert result.state == "FAILURE"


def test_a_late_task_whose_process_dies_does_not_run_again_where_failures_are_rejected(
    open_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = open_service(LATE.replace("acks_late=True", "acks_late=True, acks_on_failure_or_timeout=False") + DIES)
    _, result, after = free_two(service, tmp_path, lambda: service.tasks.dies.delay("k"))
    with pytest.raises(WorkerLostError):
        result.get(timeout=SOON)
    assert after.get(timeout=SOON) == 0
    assert set(ticket_states(service)) == {"ended", "done"}
    client = redis.Redis.from_url(service.url, decode_responses=True)
    assert client.zcard(next(iter(client.keys("*:due:*")), "none")) == 0, "it would run again"


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="Celery reports no run that a hard time limit has ended")
def test_a_late_task_that_a_time_limit_ends_does_not_run_again(
    open_service: Callable[..., Service], tmp_path: Path
) -> None:
    source = """
@app.task(**LOCKED, time_limit=1)
def lasts(self, key):
    begin(self, key, "lasts")
    wait_for("never")
"""
    service = open_service(LATE + source)
    _, result, after = free_two(service, tmp_path, lambda: service.tasks.lasts.delay("k"))
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=SOON)
    assert after.get(timeout=SOON) == 0
    eventually(lambda: ticket_states(service) == ["done", "done"], SOON, "it would run again")


def test_a_worker_that_is_killed_leaves_the_line_to_others(
    open_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = open_service(LATE, broker_transport_options={"visibility_timeout": 600})
    service.start_worker(concurrency=2)
    killed = service.worker
    line = Line(service, "k", tmp_path)
    gate = tmp_path / "gate"
    first = line.park(lambda: service.tasks.work.delay("k", 0, str(gate)))
    [second] = line.numbers(1)
    line.free()
    eventually(line.begun, SOON)
    assert line.begun()[0]["direct"]
    for pid in (killed.pid, *killed.child_pids()):
        os.kill(pid, signal.SIGKILL)
    gate.touch()
    service.start_worker(concurrency=1)
    assert first.get(timeout=SOON) == 0
    assert second.get(timeout=SOON) == 0
    assert len([note for note in line.begun() if note["n"] == 0]) == 3


def test_a_task_that_is_revoked_in_line_does_not_run(open_service: Callable[..., Service], tmp_path: Path) -> None:
    service = open_service()
    service.start_worker(concurrency=2)
    line = Line(service, "k", tmp_path)
    first, second, third = line.numbers(3)
    service.app.control.revoke(second.id, reply=True, timeout=10)
    line.free()
    assert (first.get(timeout=SOON), third.get(timeout=SOON)) == (0, 2)
    with pytest.raises(TaskRevokedError):
        second.get(timeout=SOON)
    assert [note["n"] for note in line.begun()] == [0, 2]


def test_a_task_that_expires_in_line_does_not_run(open_service: Callable[..., Service], tmp_path: Path) -> None:
    service = open_service()
    service.start_worker(concurrency=2)
    line = Line(service, "k", tmp_path)
    expires = datetime.now(timezone.utc) + timedelta(seconds=2)
    result = line.park(lambda: service.tasks.work.apply_async(("k", 0), expires=expires))
    [after] = line.numbers(1)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=SOON)
    line.free()
    assert after.get(timeout=SOON) == 0
    assert len(line.begun()) == 1


def test_a_rejected_task_reaches_the_dead_letter_queue(
    open_service: Callable[..., Service], rabbit_server: RabbitServer, tmp_path: Path
) -> None:
    name = f"dead-{os.urandom(4).hex()}"
    source = f"""
from kombu import Exchange, Queue
dead = Queue("{name}-letters", Exchange("{name}-letters"), routing_key="{name}")
app.conf.task_queues = [Queue("{name}", Exchange("{name}"), routing_key="{name}", queue_arguments={{
    "x-dead-letter-exchange": "{name}-letters", "x-dead-letter-routing-key": "{name}"}})]
app.conf.update(task_default_queue="{name}", task_default_exchange="{name}", task_default_routing_key="{name}")

@app.task(**LOCKED)
def rejects(self, key):
    begin(self, key, "rejects")
    raise Reject("no", requeue=False)
"""
    service = open_service(LATE + source, broker=rabbit_server.url)
    with service.app.connection_for_write() as connection:
        letters = service.tasks.dead.bind(connection.default_channel)
        letters.declare()
        service.start_worker(concurrency=2)
        line = Line(service, "k", tmp_path)
        rejected = line.park(lambda: service.tasks.rejects.delay("k"))
        [after] = line.numbers(1)
        line.free()
        assert after.get(timeout=SOON) == 0
        found = []
        eventually(lambda: found.append(letters.get(no_ack=True)) or found[-1] is not None, SOON)
        assert found[-1].headers["id"] == rejected.id
        letters.delete()
    assert [note["n"] for note in line.begun()].count("rejects") == 1


def test_an_unrelated_task_is_not_held_up_by_a_long_line(open_service: Callable[..., Service], tmp_path: Path) -> None:
    """Slots are dealt in turn: with one slot, a long line lets each other task in between."""
    service = open_service()
    service.start_worker(concurrency=1)
    line = Line(service, "k", tmp_path)
    results = line.numbers(40)
    others = [service.tasks.work.delay(f"other-{n}", n) for n in range(3)]
    line.free()
    for other in others:
        other.get(timeout=SOON)
    order = [note["key"] for note in service.notes("begin")]
    assert results[-1].get(timeout=SOON) == 39
    assert max(order.index(f"other-{n}") for n in range(3)) < 36
