"""Locked tasks when workers die and stores break."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from celery_locks import LockLost, LockTimeout, Skipped
from tests.support.celery_worker import ROOT
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop, shared_shop

SOON = 100
LONG = 60
#: What the machine may take for itself in a test that measures a bound.
SLACK = 2

OpenShop = Callable[..., Shop]


@dataclass
class FragileShop:
    """A shop with a worker, and the proxy by which alone its locks are reached."""

    shop: Shop
    proxy: Proxy


@pytest.fixture(scope="module")
def fragile_shops() -> Iterator[Callable[[str], FragileShop]]:
    """``fragile_shops(pool)`` returns the shop of a pool. Tests share it, and heal its proxy."""
    shops: dict[str, FragileShop] = {}
    with ExitStack() as stack:

        def shop_of(pool: str) -> FragileShop:
            if pool not in shops:
                server = stack.enter_context(RedisServer())
                proxy = stack.enter_context(Proxy(server.port))
                store = server.url().replace(str(server.port), str(proxy.port))
                shop = stack.enter_context(shared_shop(SHOP_STORE=store))
                shop.start_worker(pool=pool)
                shops[pool] = FragileShop(shop, proxy)
            shops[pool].proxy.heal()
            return shops[pool]

        yield shop_of


@pytest.fixture
def fragile_shop(open_shop: OpenShop, redis_server: RedisServer, redis_url: str, proxy: Proxy) -> Shop:
    """A shop without a worker, whose locks alone are reached through the proxy."""
    return open_shop(SHOP_STORE=redis_url.replace(str(redis_server.port), str(proxy.port)))


def holds(shop: Shop, key: str) -> bool:
    return bool(shop.journal.stretches(key))


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_promise_01_the_key_of_a_killed_process_is_free_when_its_ttl_is_over(shop: Shop, key: str, pool: str) -> None:
    worker = shop.start_worker(pool=pool, concurrency=1)
    shop.task("swallows_errors").delay(key, LONG)
    eventually(lambda: holds(shop, key), SOON)
    renewed = shop.lock(key).holders()[0].expires_in
    assert 0 < renewed <= 1.5
    if pool == "prefork":
        os.kill(shop.journal.stretches(key)[0].pid, signal.SIGKILL)
    else:
        worker.kill()
    killed = time.monotonic()
    lease = shop.lock(key).acquire(timeout=SOON)
    assert time.monotonic() - killed <= 1.5 + 1 + SLACK
    assert lease.fencing_token > shop.journal.stretches(key)[0].fence
    lease.release()


@pytest.mark.slow
def test_promise_01_everything_in_the_store_has_an_expiry(shop: Shop, key: str, redis_server: RedisServer) -> None:
    shop.start_worker()
    running = [shop.task("swallows_errors").delay(f"{key}-{number}", 2) for number in range(2)]
    waiting = [shop.task(on_contention="wait").delay(f"{key}-0") for _ in range(2)]
    eventually(lambda: holds(shop, f"{key}-0"), SOON)
    client = shop.journal._redis
    ours = eventually(lambda: list(client.scan_iter(f"celery-locks:*{key}*")), SOON)
    assert all(client.pttl(name) > 0 for name in ours)
    for result in [*running, *waiting]:
        result.get(timeout=SOON)
    left = list(client.scan_iter(f"celery-locks:*{key}*"))
    assert all(client.pttl(name) > 0 for name in left)


@pytest.mark.slow
def test_a_store_that_is_away_at_the_start_puts_tasks_off(fragile_shop: Shop, key: str, proxy: Proxy) -> None:
    proxy.refuse()
    worker = fragile_shop.start_worker(pool="solo")
    assert "locked tasks are deferred until it is back" in worker.logs()
    result = fragile_shop.task().delay(key)
    eventually(lambda: result.state == "RETRY", SOON)
    assert not holds(fragile_shop, key), "it ran without a lease"
    proxy.heal()
    assert result.get(timeout=SOON) == key
    assert [bool(stretch.fence) for stretch in fragile_shop.journal.stretches(key)] == [True]


@pytest.mark.slow
def test_a_store_that_stays_away_ends_in_lock_timeout_where_there_is_a_max_wait(
    fragile_shops: Callable[[str], FragileShop], key: str
) -> None:
    fragile = fragile_shops("prefork")
    fragile_shop = fragile.shop
    fragile.proxy.refuse()
    with pytest.raises(LockTimeout, match="could not be reached"):
        fragile_shop.task(max_wait=1).delay(key).get(timeout=SOON)
    assert not holds(fragile_shop, key)
    assert len(fragile_shop.journal.entries("timed_out", key=key)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet"])
@pytest.mark.parametrize("fault", ["refuse", "hang"])
def test_promise_10_a_store_away_for_longer_than_the_lease_loses_it(
    fragile_shops: Callable[[str], FragileShop], key: str, fault: str, pool: str
) -> None:
    fragile = fragile_shops(pool)
    shop, proxy = fragile.shop, fragile.proxy
    result = shop.task("blocks").delay(key, "naps")
    eventually(lambda: holds(shop, key), SOON)
    getattr(proxy, fault)()
    broken = time.monotonic()
    with pytest.raises(LockLost) as caught:
        result.get(timeout=SOON)
    assert caught.value.reason == "unreachable"
    lost = shop.journal.entries("lost", key=key)
    assert len(lost) == 1
    assert lost[0]["time"] - broken <= 1.5 + SLACK, "it was noticed at the local deadline, however long a call hangs"
    proxy.heal()
    assert shop.task().delay(f"{key}-2").get(timeout=SOON)
    assert shop.worker.container.status == "running"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuse", "hang"])
def test_promise_10_a_short_outage_is_no_loss(
    fragile_shops: Callable[[str], FragileShop], key: str, fault: str, tmp_path: Path
) -> None:
    fragile = fragile_shops("prefork")
    shop, proxy = fragile.shop, fragile.proxy
    result = shop.task().delay(key, until=str(tmp_path / "go"))  # its ttl is 5 s
    eventually(lambda: holds(shop, key), SOON)
    logged = shop.worker.logs().count("could not be renewed, trying again")
    getattr(proxy, fault)()
    eventually(lambda: shop.worker.logs().count("could not be renewed, trying again") > logged, SOON)
    proxy.heal()
    before = shop.lock(key).holders()[0]
    eventually(lambda: shop.lock(key).holders()[0].expires_in > before.expires_in, SOON)
    (tmp_path / "go").touch()
    assert result.get(timeout=SOON) == key
    assert not shop.journal.entries("lost", key=key)


@pytest.mark.slow
def test_a_lost_reply_at_release_is_no_loss(fragile_shop: Shop, key: str, proxy: Proxy) -> None:
    fragile_shop.start_worker(pool="solo")
    result = fragile_shop.task().delay(key, seconds=0.5)
    eventually(lambda: holds(fragile_shop, key), SOON)
    proxy.drop_reply(1)
    assert result.get(timeout=SOON) == key
    assert proxy.drops_left == 0
    assert not fragile_shop.lock(key).locked()


@pytest.mark.slow
def test_a_worker_without_a_store_logs_what_to_set(open_shop: OpenShop) -> None:
    variables = {
        "SHOP_URL": "memory://",
        "SHOP_RESULTS": "cache+memory://",
        "SHOP_STORE": "none",
        "SHOP_JOURNAL": "redis://localhost:1/0",
    }
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    environment.pop("CELERY_LOCKS_URL", None)
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.tasks.shop", "worker", "--pool", "solo"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert "no lock store is set: set locks_url" in ended.stderr + ended.stdout


@pytest.mark.slow
def test_promise_17_beat_goes_on_when_a_key_is_held(shop: Shop, key: str, tmp_path: Path) -> None:
    skips = shop.task(on_contention="skip")
    (tmp_path / "beaten.py").write_text(
        "import os\n"
        "from tests.tasks.shop import make_app\n"
        "app = make_app(os.environ)\n"
        f"app.conf.beat_schedule = {{'often': {{'task': {skips.name!r}, 'schedule': 0.1, 'args': ({key!r},)}}}}\n"
    )
    worker = shop.start_worker(concurrency=1)
    environment = {**os.environ, **shop.variables, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "celery", "-A", "beaten", "beat", "--schedule", str(tmp_path / "schedule")]
    with shop.lock(key), subprocess.Popen(command, env=environment, cwd=tmp_path) as beat:
        try:
            eventually(lambda: worker.logs().count(f"{skips.name} skipped:") >= 5, SOON)
            assert beat.poll() is None
        finally:
            beat.terminate()
    eventually(lambda: Skipped.of(skips.delay(key).get(timeout=SOON)) is None, SOON)
