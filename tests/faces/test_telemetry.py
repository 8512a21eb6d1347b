"""Metrics and events of real workers, and what becomes of them when something is away."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import celery_locks.lease
from celery_locks import LockConfigError, Locks, LockTimeout, metrics, owners, signals
from celery_locks.errors import LOSS_REASONS
from celery_locks.stores.parking import Ticket
from celery_locks.tasks.settings_check import check_settings
from celery_locks.telemetry import events, reports, store
from celery_locks.telemetry.events import EventSender
from celery_locks.telemetry.pipe import VARIABLE, Reader, Writer
from celery_locks.telemetry.prometheus import Held, Metrics
from celery_locks.telemetry.reports import CUT, Report
from celery_locks.testing.nodes.ports import free_port
from tests.support.celery_worker import ROOT, Worker
from tests.support.faulty_store import FaultyStore
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

SOON = 60.0
pytestmark = pytest.mark.timeout(400)  # workers start slowly on a busy machine
REPORT = Report("acquired", "user:7", "shop.sync", "id-1", "shop.sync[id-1] on web1", 7, None, 0.5, 1.0)


class Site:
    """An app, one worker, and what it tells.

    Args:
        url: Broker, results and store.
        settings: More settings of the app.
    """

    def __init__(self, url: str, folder: Path, **settings: Any) -> None:
        self.port = free_port()
        self.url = url
        self.folder = folder
        self.settings = {"locks_metrics_port": self.port, "locks_metrics_host": "127.0.0.1", **settings}
        self.variables = {"WATCHED_URL": url, "WATCHED_BROKER": url, "WATCHED_SETTINGS": json.dumps(self.settings)}
        self.app = Celery("watched", broker=url, backend=url, set_as_current=False)
        self.locks = Locks(url)
        #: What the worker told when it was ready.
        self.first: dict[tuple[str, ...], float] = {}

    def worker(self, **options: Any) -> Worker:
        return Worker("tests.faces.telemetry_app", env=self.variables, timeout=2 * SOON, **options)

    def send(self, task: str, *args: str) -> Any:
        return self.app.send_task(task, args=args)

    def page(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def metrics(self) -> dict[tuple[str, ...], float]:
        """The samples of ours: name and labels' values, of the default store."""
        return samples(self.page())

    def until_file(self) -> Path:
        return self.folder / uuid.uuid4().hex


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (
            sample.name.removeprefix("celery_locks_"),
            *(sample.labels[name] for name in ("task", "reason", "le") if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("celery_locks_")
        and not sample.name.endswith("_created")
        and sample.labels.get("store", "default") == "default"
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose worker has a prefork pool, and tells all that it can."""
    with RedisServer() as server:
        settings = {"locks_metrics_store": True, "locks_events": True, "locks_sweep_interval": 0.5}
        settings["locks_stores"] = {"audit": server.url(1)}
        site = Site(server.url(), tmp_path_factory.mktemp("site"), **settings)
        with site.worker(concurrency=2) as worker:
            site.prefork = worker  # type: ignore[attr-defined]
            eventually(lambda: ("acquired_total", "late") in site.metrics(), SOON)
            site.first = site.metrics()
            yield site


@contextmanager
def hearing(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """The events of locks that come from now on."""
    came: list[dict[str, Any]] = []
    ready, stop = threading.Event(), threading.Event()

    def receive() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": came.append}, routing_key="lock.#")
            with connection.Consumer([receiver.queue], callbacks=[receiver._receive], no_ack=True, accept=["json"]):
                ready.set()
                while not stop.is_set():
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.2)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    assert ready.wait(SOON)
    yield came
    stop.set()
    thread.join(SOON)


@pytest.fixture
def heard(site: Site) -> Iterator[list[dict[str, Any]]]:
    with hearing(site.app) as came:
        yield came


# ---------------------------------------------------------------------- of a worker


def series_of(task: str) -> set[tuple[str, ...]]:
    """All counters and histograms that a task has."""
    counted = {(f"{kind}_total", task) for kind in ("acquired", "contended", "timed_out", "released")}
    lost = {("lost_total", task, reason) for reason in LOSS_REASONS}
    return counted | lost | {(f"{kind}_seconds_count", task) for kind in ("wait", "hold")}


@pytest.mark.slow
def test_a_worker_has_all_series_from_its_first_page(site: Site) -> None:
    tasks = ["held", "short", "parked", "impatient_wait", "late"]
    for series in [*series_of(""), *(series for task in tasks for series in series_of(task))]:
        assert site.first[series] == 0
    assert {site.first["held", task] for task in tasks} == {0}
    assert not [series for series in site.first if "celery.backend_cleanup" in series], "that one is not locked"


@pytest.mark.slow
def test_a_worker_counts_what_its_processes_do(site: Site) -> None:
    until = site.until_file()
    first = site.send("held", "a", str(until))
    eventually(lambda: site.metrics().get(("held", "held")) == 1, SOON)
    second = site.send("short", "a")
    eventually(lambda: site.metrics().get(("contended_total", "short"), 0) >= 1, SOON)
    assert site.metrics()["acquired_total", "short"] == 0
    until.touch()
    first.get(timeout=SOON)
    second.get(timeout=SOON)

    def all_told() -> bool:
        told = site.metrics()
        return told.get(("released_total", "held")) == 1 == told.get(("released_total", "short"))

    eventually(all_told, SOON)
    told = site.metrics()
    assert told["acquired_total", "held"] == told["acquired_total", "short"] == 1
    assert told["held", "held"] == 0
    assert told["hold_seconds_count", "held"] == 1
    assert told["wait_seconds_count", "short"] == 1
    # The message was put off, so it waited, also where no process did.
    assert told["wait_seconds_sum", "short"] > 0
    assert told["hold_seconds_sum", "held"] >= told["wait_seconds_sum", "short"] / 2
    assert told["reports_dropped_total",] == 0
    assert not [sample for sample in told if "a" in sample[1:]], "no key is a label"


@pytest.mark.slow
def test_a_killed_process_holds_nothing_and_loses_no_count(site: Site) -> None:
    before = site.metrics().get(("acquired_total", "held"), 0)
    site.send("held", "b", str(site.until_file()))
    eventually(lambda: site.metrics()["held", "held"] == 1, SOON)
    for pid in site.prefork.child_pids():  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: site.metrics()["held", "held"] == 0, SOON)
    assert site.metrics()["acquired_total", "held"] == before + 1
    result = site.send("short", "b")  # the pool has new processes, and they are heard as well
    count = site.metrics().get(("released_total", "short"), 0)
    result.get(timeout=SOON)
    eventually(lambda: site.metrics().get(("released_total", "short"), 0) > count - 1, SOON)


@pytest.mark.slow
def test_the_wait_of_a_parked_task_is_all_of_its_wait(site: Site) -> None:
    lease = site.locks.lock("c", ttl=60).acquire()
    begun = time.monotonic()
    result = site.send("parked", "c")
    eventually(lambda: site.locks.info("c").waiting == 1, SOON)
    assert not result.ready()
    time_parked = time.monotonic()
    eventually(lambda: time.monotonic() - time_parked > 0.3, SOON)
    lease.release()
    result.get(timeout=SOON)
    waited = time.monotonic() - begun
    eventually(lambda: site.metrics().get(("wait_seconds_count", "parked")) == 1, SOON)
    assert 0.25 < site.metrics()["wait_seconds_sum", "parked"] < waited + 1


@pytest.mark.slow
def test_a_worker_shows_its_store(site: Site) -> None:
    lease = site.locks.lock("d", ttl=60, owner=owners.running("other", "id-1", "web1")).acquire()
    assert site.locks.store.acquire(site.locks.lock("d")._new_claim(), 60)

    def told() -> bool:
        seen = site.metrics()
        return seen.get(("store_held", "other")) == 1 == seen.get(("store_blocked", "other"))

    eventually(told, SOON, interval=0.2)
    seen = site.metrics()
    assert seen["store_up",] == 1
    assert seen["store_keys",] >= 1
    assert seen["store_waiting",] >= 1
    lease.release()


@pytest.mark.slow
def test_a_worker_reports_each_of_its_stores(site: Site, heard: list[dict[str, Any]]) -> None:
    locks = Locks(site.settings["locks_stores"]["audit"])
    with locks.lock("e", ttl=60, owner=owners.running("other", "id-1", "web1")):

        def told() -> bool:
            text = site.page()
            return (
                'celery_locks_store_keys{store="audit"} 1.0' in text
                and 'celery_locks_store_held{store="audit",task="other"} 1.0' in text
            )

        eventually(told, SOON, interval=0.2)
        assert 'celery_locks_store_up{store="default"} 1.0' in site.page()
    key = uuid.uuid4().hex
    site.send("booked", key).get(timeout=SOON)
    site.send("short", key).get(timeout=SOON)

    def stores() -> list[tuple[str, str | None]]:
        return sorted((each["task"], each.get("store")) for each in heard if each.get("key") == key)

    wanted = [("booked", "audit"), ("booked", "audit"), ("short", None), ("short", None)]
    eventually(lambda: stores() == wanted, SOON)


@pytest.mark.slow
def test_timeouts_of_all_policies_are_counted(site: Site) -> None:
    tasks = [f"impatient_{policy}" for policy in ("wait", "retry", "park")]
    with site.locks.lock("g", ttl=60):
        results = [site.send(task, "g") for task in tasks]
        for result in results:
            with pytest.raises(LockTimeout):
                result.get(timeout=SOON)
    eventually(lambda: all(site.metrics()["timed_out_total", task] for task in tasks), SOON)
    assert {site.metrics()["timed_out_total", task] for task in tasks} == {1}


@pytest.mark.slow
def test_events(site: Site, heard: list[dict[str, Any]]) -> None:
    lease = site.locks.lock("e", ttl=60, owner="by hand").acquire()
    result = site.send("short", "e")
    eventually(lambda: [event["type"] for event in heard if event.get("key") == "e"], SOON)
    lease.release()
    result.get(timeout=SOON)
    eventually(lambda: any(event["type"] == "lock-released" for event in heard), SOON)
    mine = [event for event in heard if event["key"] == "e"]
    kinds = [event["type"] for event in mine]
    assert kinds[0] == "lock-contended"
    assert kinds[-2:] == ["lock-acquired", "lock-released"]
    assert {(event["task"], event["task_id"]) for event in mine} == {("short", result.id)}
    acquired, released = mine[-2:]
    assert acquired["fencing_token"] == released["fencing_token"] > lease.fencing_token
    assert acquired["owner"].startswith(f"short[{result.id}] on ")
    assert abs(released["timestamp"] - time.time()) < SOON
    assert "token" not in acquired


@pytest.mark.slow
def test_a_loss_is_reported_with_its_reason(site: Site, heard: list[dict[str, Any]]) -> None:
    until = site.until_file()
    site.send("held", "f", str(until))
    eventually(lambda: site.locks.lock("f").locked(), SOON)
    site.locks.lock("f").force_release()
    eventually(lambda: site.metrics().get(("lost_total", "held", "force_released")) == 1, SOON)
    [lost] = eventually(lambda: [event for event in heard if event["type"] == "lock-lost"], SOON)
    assert (lost["key"], lost["reason"], lost["task"]) == ("f", "force_released", "held")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "settings"),
    [
        ("prefork", {"worker_pool_start_method": "spawn"}),
        ("threads", {"locks_folder": "/proc"}),  # no folder can be made there: it does not know what it holds
        ("gevent", {}),
    ],
)
def test_other_pools_are_heard_too(redis_url: str, tmp_path: Path, pool: str, settings: dict[str, Any]) -> None:
    site = Site(redis_url, tmp_path, **settings)
    with site.worker(pool=pool, concurrency=1):
        first = site.metrics()
        assert {first[series] for series in series_of("short")} == {0}
        assert first.get(("held", "short")) == (None if "locks_folder" in settings else 0)
        site.send("short", "a").get(timeout=SOON)
        eventually(lambda: site.metrics()["released_total", "short"] == 1, SOON)


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGQUIT], ids=["warm", "cold"])
def test_a_worker_that_ends_reports_all_and_leaves_nothing(redis_url: str, tmp_path: Path, sig: signal.Signals) -> None:
    site = Site(redis_url, tmp_path, locks_events=True)
    site.variables["TMPDIR"] = str(tmp_path)
    until = site.until_file()
    with hearing(site.app) as heard, site.worker(concurrency=1) as worker:
        assert list(tmp_path.glob("celery-locks-*/reports"))
        site.send("held", "a", str(until))
        eventually(lambda: site.locks.lock("a").locked(), SOON)
        worker.kill(sig)
        if sig == signal.SIGTERM:
            worker.wait_for_log("Warm shutdown")
            until.touch()
        worker.container.wait(SOON)
        assert not list(tmp_path.glob("celery-locks-*"))
        if sig == signal.SIGTERM:
            eventually(lambda: [event["type"] for event in heard] == ["lock-acquired", "lock-released"], SOON)


@pytest.mark.slow
def test_a_port_that_is_taken_stops_no_worker(redis_url: str, tmp_path: Path) -> None:
    site = Site(redis_url, tmp_path)
    with socket.create_server(("127.0.0.1", site.port)), site.worker(pool="solo") as worker:
        assert f"locks_metrics_port {site.port} can't be opened" in worker.logs()


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"locks_metrics_port": "9540"},
        {"locks_metrics_port": 70_000},
        {"locks_metrics_port": True},
        {"locks_metrics_host": 1},
        {"locks_events": "yes"},
        {"locks_traces": 1},
        {"locks_metrics_store": "no"},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(LockConfigError, match=next(iter(wrong))):
        check_settings(wrong)


def test_without_receivers_no_process_listens() -> None:
    program = (
        "import sys\n"
        "from types import SimpleNamespace as Of\n"
        "from celery_locks import signals, Locks\n"
        "from celery_locks.tasks.worker import telemetry\n"
        "conf = {'locks_traces': False}\n"
        "assert telemetry.begin(Of(app=Of(conf=conf)), {'default': Locks('memory://')}) is None\n"
        "assert not (signals.on_lock_acquired or signals.on_lock_released or signals.on_lock_contended)\n"
        "print(*[name for name in sys.modules if name.startswith(('prometheus', 'celery_locks.telemetry'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# ---------------------------------------------------------------------- the pipe


@pytest.fixture
def reader() -> Iterator[tuple[Reader, list[Report], list[int]]]:
    reports: list[Report] = []
    dropped: list[int] = []
    reader = Reader(reports.append, dropped.append)
    yield reader, reports, dropped
    reader.close()
    os.environ.pop(VARIABLE, None)


def test_what_a_killed_process_has_written_is_read(reader: Any) -> None:
    end, reports, _ = reader
    program = (
        "import os, signal, sys\n"
        "from celery_locks.telemetry.pipe import Writer\n"
        "from celery_locks.telemetry.reports import Report\n"
        "writer = Writer(sys.argv[1])\n"
        "for number in range(200):\n"
        "    writer.write(Report('acquired', 'k', 't', None, None, number, None, None, 0.0))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    end.start()
    argv = [sys.executable, "-c", program, str(end.path)]
    writers = [subprocess.Popen(argv, cwd=ROOT) for _ in range(3)]
    assert [writer.wait(SOON) for writer in writers] == [-signal.SIGKILL] * 3
    eventually(lambda: len(reports) == 600, SOON)
    assert sorted(report.fencing_token for report in reports) == sorted([*range(200)] * 3)  # type: ignore[type-var]
    end.stop()


def test_a_full_pipe_delays_no_other_and_what_is_dropped_is_counted(reader: Any) -> None:
    end, reports, dropped = reader
    writer, written = Writer(str(end.path)), 20_000
    for _ in range(written):
        writer.write(REPORT)  # nobody reads
    end.start()

    def all_told() -> bool:
        writer.write(REPORT)
        return bool(dropped)

    eventually(all_told, SOON)
    end.stop()
    assert dropped[0] > 0
    assert len(reports) + sum(dropped) > written
    assert set(reports) == {REPORT}


def test_long_texts_are_cut(reader: Any) -> None:
    end, reports, _ = reader
    end.start()
    long = Report("lost", "\u2028" * 10_000, "t" * 10_000, "i" * 300, "o" * 10_000, 7, "deleted", 0.5, 1.0)
    Writer(str(end.path)).write(long)
    end.stop()
    assert reports[0].key.endswith("\u2028" + CUT)
    assert (reports[0].kind, reports[0].fencing_token, reports[0].reason) == ("lost", 7, "deleted")
    assert len(long.line(512)) <= 512, "POSIX promises no more"


def test_nonsense_stops_no_process(reader: Any) -> None:
    end, reports, _ = reader
    end.start()
    with end.path.open("wb", buffering=0) as pipe:
        pipe.write(b"nonsense\n[1]\ndropped x\n")
    Writer(str(end.path)).write(REPORT)
    end.stop()
    assert reports == [REPORT]


def test_a_writer_without_a_reader_raises_nothing(tmp_path: Path) -> None:
    Writer(str(tmp_path / "none")).write(REPORT)


# ---------------------------------------------------------------------- events without a broker


def test_a_broker_that_is_away_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE_SIZE", 10)
    monkeypatch.setattr(events, "RETRY_SECONDS", 0.05)
    dropped: list[int] = []
    app = Celery(broker="redis://127.0.0.1:1/0", set_as_current=False)
    sender = EventSender(app, "worker@host", dropped.append)
    sender.start()
    for _ in range(100):
        sender.put(REPORT)
    assert sum(dropped) == 90
    sender.stop()


def test_events_come_after_a_broker_came_back(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    app = Celery(broker=server.url(), set_as_current=False)
    server.stop()
    sender = EventSender(app, "worker@host", lambda count: None)
    sender.start()
    sender.put(REPORT)
    server.start()

    def came_one() -> bool:
        sender.put(REPORT)  # those that were sent before anybody heard are gone
        return bool(came)

    with hearing(app) as came:
        eventually(came_one, SOON, interval=0.1)
    sender.stop()
    event = came[0]
    assert (event["type"], event["hostname"], event["key"]) == ("lock-acquired", "worker@host", "user:7")


# ---------------------------------------------------------------------- in any process


def text_of(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    from prometheus_client import generate_latest

    return samples(generate_latest(registry).decode())


def test_any_process_can_count_its_locks() -> None:
    others = signals.on_lock_acquired.receivers
    registry = CollectorRegistry()
    stop = metrics.collect(registry)
    locks = Locks("memory://")
    with locks.lock("k"):
        assert locks.lock("k").try_acquire() is None
    stop()
    with locks.lock("k"):
        pass
    assert not text_of(registry)
    stop = metrics.collect(registry)  # it may begin again
    with locks.lock("k"):
        pass
    told = text_of(registry)
    stop()
    assert told["acquired_total", ""] == told["released_total", ""] == told["hold_seconds_count", ""] == 1
    assert signals.on_lock_acquired.receivers == others


def test_a_task_has_all_series_once_it_is_known() -> None:
    registry, tasks = CollectorRegistry(), ["first"]
    counted = Metrics(registry, lambda: tasks)
    assert series_of("first") | series_of("") <= text_of(registry).keys()
    tasks.append("second")
    assert series_of("second") <= text_of(registry).keys()
    counted.count(replace(REPORT, task="unknown", kind="lost", reason="stolen"))
    told = text_of(registry)
    assert {series: told[series] for series in series_of("unknown") if told[series]} == {
        ("lost_total", "unknown", "stolen"): 1,
        ("hold_seconds_count", "unknown"): 1,
    }
    with pytest.raises(ValueError, match="celery_locks_acquired"):
        Metrics(registry)
    counted.close()
    assert not text_of(registry)


def test_each_reason_of_a_loss_is_described() -> None:
    assert set(LOSS_REASONS) == set(celery_locks.lease._REASON_TEXTS)
    reasons = (ROOT / "docs" / "reference" / "errors.md").read_text().partition("| reason |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", reasons, re.MULTILINE) == list(LOSS_REASONS)


def test_what_a_worker_holds_may_be_unknown() -> None:
    held: list[str] | None = None
    registry = CollectorRegistry()
    registry.register(Held(lambda: held, lambda: ["a", "b"]))
    assert not text_of(registry)
    held = ["b", "b"]
    assert text_of(registry) == {("held", "a"): 0, ("held", "b"): 2}


@pytest.fixture
def watched(redis_url: str) -> Iterator[tuple[Locks, Callable[[], dict[tuple[str, ...], float]]]]:
    """Locks, and what is told of their store by a look that begins now."""
    locks, registry = Locks(redis_url), CollectorRegistry()
    stop = metrics.watch(locks, registry, every=0)

    def told() -> dict[tuple[str, ...], float]:
        asked = time.monotonic()

        def told_later() -> dict[tuple[str, ...], float]:
            seen = text_of(registry)
            return seen if seen.get(("store_age_seconds",), SOON) < time.monotonic() - asked else {}

        return eventually(told_later, SOON)

    yield locks, told
    stop()


def test_figures_by_task_are_of_all_keys_or_absent(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_PAGES", 1)
    locks, told = watched
    late = locks.lock("zzz", ttl=600, owner=owners.running("late", "id-1", "web1")).acquire()
    seen = told()
    assert seen["store_complete",] == seen["store_held", "late"] == 1
    assert seen["store_held", ""] == seen["store_dispatched", "late"] == 0
    bulk = [locks.lock(f"bulk:{number:05}", ttl=600, renew=False).acquire() for number in range(1_001)]
    seen = told()
    assert seen["store_complete",] == 0
    assert seen["store_keys",] == seen["store_leases",] == 1_002
    assert not [series for series in seen if len(series) > 1], "figures by task"
    for lease in (late, bulk.pop(), bulk.pop()):
        lease.release()
    seen = told()
    assert (seen["store_complete",], seen["store_held", "late"], seen["store_held", ""]) == (1, 0, 999)


def test_all_holders_of_a_key_are_counted_or_none(watched: Any) -> None:
    locks, told = watched
    smtp = locks.semaphore("smtp", limit=200, ttl=600, owner=owners.running("send", "id-1", "web1"))
    leases = [smtp.acquire() for _ in range(30)]
    assert told()["store_held", "send"] == 30
    leases += [smtp.acquire() for _ in range(71)]
    seen = told()
    assert (seen["store_complete",], seen["store_leases",]) == (0, 101)
    assert ("store_held", "send") not in seen
    leases.pop().release()
    assert told()["store_held", "send"] == 100


def test_a_task_that_was_dispatched_and_has_not_started(watched: Any) -> None:
    locks, told = watched
    waiting = locks.lock("k", ttl=60, owner=owners.running("parked", "id-2", "web1"))
    with locks.lock("k", owner=owners.running("runs", "id-1", "web1")):
        locks.store.park(waiting._new_claim(), Ticket("id-2:0", "message", "id-2"))
        seen = told()
        assert (seen["store_held", "runs"], seen["store_blocked", "runs"]) == (1, 1)
        assert seen["store_dispatched", "runs"] == 0
    locks.store.sweep(locks.prefix, "")
    seen = told()
    assert (seen["store_held", "parked"], seen["store_dispatched", "parked"]) == (1, 1)
    assert 0 < seen["store_dispatched_seconds", "parked"] < SOON
    assert {seen[name, "runs"] for name in ("store_held", "store_dispatched", "store_dispatched_seconds")} == {0}


def test_a_store_without_a_list_has_no_figures() -> None:
    class Poor(FaultyStore):
        lists = False

    registry = CollectorRegistry()
    stop = metrics.watch(Locks(Poor()), registry, every=0)
    eventually(lambda: text_of(registry) == {("store_up",): 1}, SOON)
    stop()


def test_several_stores_are_looked_at_apart(redis_url: str, start_redis: Callable[..., RedisServer]) -> None:
    from prometheus_client import generate_latest

    server, registry = start_redis(), CollectorRegistry()
    locks, audit = Locks(redis_url), Locks(server.url())

    def page() -> str:
        return str(generate_latest(registry).decode())

    stop = metrics.watch({"default": locks, "audit": lambda: audit}, registry, every=0)
    with server.paused(), locks.lock("k"):
        eventually(lambda: 'celery_locks_store_keys{store="default"} 1.0' in page(), SOON)
        assert 'store_keys{store="audit"}' not in page()
    eventually(lambda: 'celery_locks_store_keys{store="audit"} 0.0' in page(), SOON)
    assert page().count("# TYPE celery_locks_store_keys gauge") == 1
    stop()


def test_a_store_that_is_away_delays_no_other(
    start_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, registry = start_redis(), CollectorRegistry()
    locks = Locks(server.url())
    lease = locks.lock("k", owner="somebody").acquire()
    with server.paused():
        stop = metrics.watch(locks, registry, every=0)
        assert not text_of(registry), "nothing is known yet"
        with monkeypatch.context() as patch:
            patch.setattr(store, "SLOW_SECONDS", 0.1)
            eventually(lambda: text_of(registry) == {("store_up",): 0}, SOON)
    with pytest.raises(ValueError, match="celery_locks_store"):
        metrics.watch(locks, registry)
    eventually(lambda: text_of(registry).get(("store_leases",)) == 1, SOON)
    assert text_of(registry)["store_up",] == 1
    with server.paused():
        begun = time.monotonic()
        for _ in range(20):
            text_of(registry)
        assert time.monotonic() - begun < 1.5, "less than the store's timeout"
    eventually(lambda: text_of(registry)["store_up",] == 1, SOON)
    server.kill()
    seen = eventually(lambda: (told := text_of(registry))["store_up",] == 0 and told, SOON)
    assert seen["store_leases",] == 1, "figures of a moment ago"
    monkeypatch.setattr(store, "KNOWN_SECONDS", 0.1)
    eventually(lambda: text_of(registry).keys() == {("store_up",), ("store_age_seconds",)}, SOON)
    monkeypatch.setattr(store, "KNOWN_UNASKED_SECONDS", 0.0)
    eventually(lambda: text_of(registry).keys() == {("store_age_seconds",)}, SOON)
    stop()
    assert not text_of(registry)
    del lease


def test_what_happens_to_a_lock_outside_tasks_names_its_store() -> None:
    locks = Locks("memory://audit-reports")
    locks._space.store_name = "audit"
    seen = []
    stop = reports.subscribe(seen.append)
    try:
        locks.lock("k").acquire().release()
        locks.semaphore("s", limit=2).acquire().release()
    finally:
        stop()
    assert {report.store for report in seen} == {"audit"}
