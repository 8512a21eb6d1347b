"""``celery locks`` on an app with several stores, and what it releases of an owner."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import pytest
import redis
from celery import Celery
from click.shell_completion import ShellComplete

from celery_locks import LockConfigError, LockedTask, Locks, Owner
from celery_locks.cli import completion
from celery_locks.cli import locks as locks_group
from celery_locks.locks import store_names
from celery_locks.stores.parking import Ticket
from celery_locks.views import read_page
from tests.support.cli import Run, found, make_app, nothing
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

SOON = 60.0
pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("no_shared_tasks")]
USER = Owner("user", within="org")


@pytest.fixture
def app(redis_url: str, start_redis: Callable[..., RedisServer]) -> Celery:
    """An app with the stores ``default`` and ``audit``, on two servers."""
    app = make_app(None, locks_stores={"default": redis_url, "audit": start_redis().url()})
    app.task(nothing, name="shop.book", base=LockedTask, shared=False, lock_key="<key>", lock_store="audit")
    return app


@pytest.fixture
def run(app: Celery) -> Run:
    return Run(app)


@pytest.fixture
def locks(app: Celery) -> Locks:
    return Locks.from_app(app)


@pytest.fixture
def audit(app: Celery) -> Locks:
    return Locks.from_app(app, "audit")


def as_json(run: Run, *args: str) -> Any:
    return json.loads(run(*args, "--json").stdout)


# ---------------------------------------------------------------------- list, show, stats, watch


def test_a_list_is_of_all_stores(run: Run, locks: Locks, audit: Locks) -> None:
    assert run("list").output == "Nothing is held or waited for.\n"
    audit.lock("a", owner="one").acquire()
    locks.lock("b", owner="two").acquire()
    audit.lock("b", owner="three").acquire()
    header, *rows = run("list").output.splitlines()
    assert header.split()[:2] == ["STORE", "KEY"]
    assert [row.split()[:3] for row in rows] == [
        ["audit", "a", "one"],
        ["default", "b", "two"],
        ["audit", "b", "three"],
    ]
    assert [(item["store"], item["key"]) for item in as_json(run, "list")["locks"]] == [
        ("audit", "a"),
        ("default", "b"),
        ("audit", "b"),
    ]
    header, *rows = run("list", "--store", "audit").output.splitlines()
    assert header.startswith("KEY")
    assert [row.split()[0] for row in rows] == ["a", "b"]
    title, table = run("watch", "--times", "1").output.split("\n", 1)
    assert "3 keys, 3 leases, 0 waiting" in title
    assert table.startswith("STORE")


@pytest.mark.parametrize("filters", [(), ("--owner", "import")])
@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_pages_of_several_stores(run: Run, locks: Locks, audit: Locks, filters: tuple[str, ...], count: int) -> None:
    """Each key once, in one order; those of one name in two stores on one page."""
    for number in range(7):
        for store in [locks] * (number != 3) + [audit] * (number % 2):
            store.lock(f"k{number}", owner="import").acquire()
    seen, after = list[tuple[str, str]](), list[str]()
    for _ in range(20):
        page = as_json(run, "list", "--count", str(count), *filters, *after)
        assert len(page["locks"]) <= count + 1
        seen += [(item["key"], item["store"]) for item in page["locks"]]
        if page["next"] is None:
            break
        after = ["--after", page["next"]]
    wanted = [(f"k{number}", "default") for number in range(7) if number != 3]
    wanted += [(f"k{number}", "audit") for number in range(7) if number % 2]
    assert sorted(seen) == sorted(wanted)
    assert [key for key, _ in seen] == sorted(key for key, _ in seen)


def test_a_short_page_of_one_store_ends_the_page_of_all(locks: Locks, audit: Locks) -> None:
    """A store may look at many keys whose time is over, and return few, or none, and a place to go on from."""
    for number in range(4):
        audit.lock(f"k{number}").acquire()
    locks.lock("k2").acquire()
    listed = audit.list

    def short(prefix: str = "", after: str | None = None, count: int = 100) -> Any:
        return listed(prefix, after, 1)

    audit.list = short  # type: ignore[method-assign]
    seen, after = [], None
    for _ in range(10):
        page = read_page({"default": locks, "audit": audit}, after=after, count=10)
        seen += [item.key for item in page.items]
        after = page.next
        if after is None:
            break
    assert seen == ["k0", "k1", "k2", "k2", "k3"]


def test_show_is_of_the_default_store_and_names_others(run: Run, audit: Locks) -> None:
    audit.lock("k", owner="one").acquire()
    shown = run("show", "k").output.splitlines()
    assert shown == ["k: not held, 0 waiting", "It is held in the store audit, too: show it by --store audit"]
    data = as_json(run, "show", "k")
    assert (data["store"], data["other_stores"], data["holders"]) == ("default", ["audit"], [])
    assert run("show", "k", "--store", "audit").output.startswith("k in the store audit: 1 of 1 permits are held")
    assert as_json(run, "show", "k", "--store", "audit")["holders"][0]["owner"] == "one"


def test_stats_are_of_all_stores_and_of_each(run: Run, locks: Locks, audit: Locks) -> None:
    oldest = locks.lock("a", ttl=60).acquire()
    eventually(lambda: oldest.held_for() > 0.5)  # more than what may pass between the reads of two stores
    audit.lock("b", ttl=5).acquire()
    audit.lock("c", ttl=60).acquire()
    data = as_json(run, "stats")
    assert (data["locks"], data["holders"], data["near_expiry"], data["oldest"]) == (3, 3, 1, "a")
    assert {name: each["locks"] for name, each in data["stores"].items()} == {"default": 1, "audit": 2}
    text = run("stats").output
    assert "keys held or waited for:  3\n" in text
    assert "\nin the store audit:\nkeys held or waited for:  2\n" in text
    assert "keys held or waited for:  2\n" in run("stats", "--store", "audit").output


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "command", [("list",), ("show", "k"), ("watch",), ("stats",), ("release", "k"), ("wait", "k"), ("sweep",), ("sql",)]
)
def test_an_unknown_store_is_an_error_that_lists_the_names(run: Run, command: tuple[str, ...]) -> None:
    said = run(*command, "--store", "adit", status=1).stderr
    assert said == ("Error: no lock store has the name 'adit' (known: 'default', 'audit'): add it to locks_stores\n")


def test_store_names_begin_with_the_default_one() -> None:
    assert store_names({}) == ("default",)
    assert store_names({"locks_stores": {"b": "memory://", "default": "memory://", "a": "memory://"}}) == (
        "default",
        "b",
        "a",
    )
    with pytest.raises(LockConfigError, match="locks_stores="):
        store_names({"locks_stores": "redis://"})


def test_names_and_keys_are_completed(app: Celery, locks: Locks, audit: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_app", lambda ctx: app)
    root = click.Group("celery", commands={"locks": locks_group})
    locks.lock("user:1").acquire()
    audit.lock("user:2").acquire()

    def offered(*args: str) -> list[str]:
        *typed, incomplete = args
        completing = ShellComplete(root, {}, "celery", "_CELERY_COMPLETE")
        return [item.value for item in completing.get_completions(["locks", *typed], incomplete)]

    assert offered("list", "--store", "") == ["default", "audit"]
    assert offered("release", "--store", "a") == ["audit"]
    assert offered("show", "us") == ["user:1"]
    assert offered("show", "--store", "audit", "us") == ["user:2"]
    assert offered("release", "--store", "adit", "us") == []


# ---------------------------------------------------------------------- release, wait, sweep


def test_release_acts_on_the_default_store_by_default(run: Run, locks: Locks, audit: Locks) -> None:
    lease = audit.lock("k", owner="one").acquire()
    said = run("release", "k", "--yes", status=1).stderr
    assert said == "Error: k is not held; it is held in the store audit: give --store audit\n"
    kept = locks.lock("k", owner="two").acquire()
    said = run("release", "k", "--store", "audit", answer="y\n").output
    assert "Release k in the store audit, which is held by one" in said
    assert "Released k in the store audit, which was held by one" in said
    eventually(lambda: lease.lost, SOON)
    assert kept.held
    assert locks.lock("k").locked()
    assert not audit.lock("k").locked()


def test_wait_acts_on_the_default_store_by_default(run: Run, audit: Locks) -> None:
    audit.lock("k", owner="one").acquire()
    assert run("wait", "k", "--timeout", "0").output == "k is free.\n"
    assert "it is held by one" in run("wait", "k", "--timeout", "0", "--store", "audit", status=1).stderr


def test_sweep_is_of_all_stores(run: Run) -> None:
    said = run("sweep").output.splitlines()
    assert said == ["Swept. In line: 0 before, 0 now.", "Swept. In line in the store audit: 0 before, 0 now."]
    assert run("sweep", "--store", "audit").output.splitlines() == said[1:]


def test_release_of_an_owner_lists_asks_and_counts(run: Run, locks: Locks, audit: Locks) -> None:
    leases = [
        locks.lock("a", owner=USER("org_1", "user_1")).acquire(),
        locks.lock("b", owner=USER("org_1", "user_2")).acquire(),
        locks.semaphore("c", 2, owner=USER("org_1", "user_2")).acquire(),
    ]
    others = [
        locks.semaphore("c", 2, owner=USER("org_11", "user_2")).acquire(),
        locks.lock("d", owner="org:org_1x").acquire(),
        audit.lock("a", owner=USER("org_1", "user_1")).acquire(),
    ]
    refused = run("release", "--owner", "org:org_1", answer="n\n", status=1).output
    assert "Release 3 leases of org:org_1? [y/N]: n" in refused
    header, *rows = refused.splitlines()[:4]
    assert header.startswith("KEY")
    assert [row.split()[:2] for row in rows] == [
        ["a", "org:org_1/user:user_1"],
        ["b", "org:org_1/user:user_2"],
        ["c", "org:org_1/user:user_2"],
    ]
    assert all(lease.held for lease in leases)
    said = run("release", "--owner", "org:org_1/user:user_2", answer="y\n").output
    assert said.endswith("Released 2 leases of org:org_1/user:user_2.\n")
    assert run("release", "--owner", "org:org_1", "--yes").output.endswith("Released 1 lease of org:org_1.\n")
    eventually(lambda: all(lease.lost for lease in leases), SOON)
    said = run("release", "--owner", "org:org_1", "--yes", status=1).stderr
    assert said == "Error: org:org_1 holds no lease: give an owner's whole name, as `list` prints it\n"
    assert all(lease.held for lease in others)
    said = run("release", "--owner", "org:org_1", "--yes", "--store", "audit").output
    assert said.endswith("Released 1 lease of org:org_1 in the store audit.\n")


@pytest.mark.parametrize("args", [(), ("k", "--owner", "x"), ("--owner", "x", "--part", "call")])
def test_release_takes_a_key_or_an_owner(run: Run, args: tuple[str, ...]) -> None:
    assert "KEY" in run("release", *args, status=2).stderr


# ---------------------------------------------------------------------- doctor


def test_doctor_checks_each_store(app: Celery, redis_url: str, start_redis: Callable[..., RedisServer]) -> None:
    checks = found(app)
    assert [item["store"] for item in checks["store"]] == ["default", "audit"]
    assert [item["store"] for item in checks["waiters"]] == ["default", "audit"]
    assert [item["store"] for item in checks["broker"]] == [""]
    assert "ok       writes (audit): a throwaway lock was acquired" in Run(app)("doctor", "--patience", "0").output
    server = start_redis()
    bad = make_app(None, locks_stores={"default": redis_url, "audit": server.url()})
    with redis.Redis.from_url(server.url()) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "100mb")
    evicting = {item["store"]: item["status"] for item in found(bad, status=1)["eviction"]}
    assert evicting == {"default": "ok", "audit": "warning"}
    server.kill()
    away = {item["store"]: item["status"] for item in found(bad, status=2)["store"]}
    assert away == {"default": "ok", "audit": "error"}
    assert "audit" not in Run(bad)("doctor", "--store", "default", "--patience", "0").output


def test_doctor_names_the_store_of_a_line_that_is_stuck(app: Celery, audit: Locks) -> None:
    lock = audit.lock("k")
    with lock:
        audit.store.park(lock._new_claim(), Ticket("id:0", "message", "id"))  # type: ignore[attr-defined]
    stuck = {item["store"]: item for item in found(app, status=1)["waiters"]}
    assert stuck["default"]["status"] == "ok"
    assert "that no worker dispatches: k in the store audit." in stuck["audit"]["text"]
