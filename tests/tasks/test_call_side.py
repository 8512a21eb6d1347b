"""What a call does in a scope that begins there; no worker runs, so every message stays where it was sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu.exceptions import OperationalError

from celery_locks import LockContended, Locks, Skipped, StoreUnavailable, owners
from celery_locks.renewal import keeper
from celery_locks.settings import SCOPES
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

CALL_SCOPES = SCOPES[1:]


def messages(shop: Shop) -> list[dict[str, Any]]:
    return [json.loads(message) for message in shop.journal._redis.lrange("celery", 0, -1)][::-1]


def held(shop: Shop, key: str, scope: str = "until_executed") -> list[Any]:
    """Those who hold the lease of a call."""
    lock = shop.lock(key)
    lock._name += ":call" if scope == "until_and_while_executing" else ""
    return list(lock.holders())


@pytest.mark.parametrize("scope", CALL_SCOPES)
def test_a_second_call_gets_the_existing_result(shop: Shop, key: str, scope: str) -> None:
    first = shop.task(scope=scope).delay(key)
    assert shop.task(scope=scope).delay(key).id == shop.task(scope=scope).delay(key=key).id == first.id
    assert shop.task(scope=scope).delay(f"{key}-other").id != first.id
    assert [message["headers"]["id"] for message in messages(shop)].count(first.id) == 1
    assert len(messages(shop)) == 2


@pytest.mark.parametrize("scope", CALL_SCOPES)
def test_the_token_travels_in_the_message(shop: Shop, key: str, scope: str) -> None:
    shop.task(scope=scope).apply_async((key,), headers={"mine": 7})
    headers = messages(shop)[0]["headers"]
    ours = headers["celery_locks"]
    assert headers["mine"] == 7
    assert (ours["key"], ours["id"]) == (key, headers["id"])
    assert [holder.token for holder in held(shop, key, scope)] == [ours["token"]]
    assert keeper().kept(ours["token"]) is None, "a caller must not renew: it may live for ever"


def test_a_lease_that_outlasts_its_task_is_shown_as_such(shop: Shop, key: str) -> None:
    shop.task(scope="until_expired").delay(key)
    (holder,) = Locks.from_app(shop.app).info(key).holders
    assert (holder.state, holder.worker) == ("lasting", None)


def test_the_lease_of_a_call_is_listed_by_its_key(shop: Shop, key: str) -> None:
    shop.task(scope="until_and_while_executing").delay(key)
    locks = Locks.from_app(shop.app)
    (item,) = locks.list(prefix=key).items
    assert (item.key, item.part, item.holders[0].state) == (key, "call", "called")
    assert locks.info(key, "call").holders[0].token == item.holders[0].token


def test_a_given_id_is_kept(shop: Shop, key: str) -> None:
    assert shop.task(scope="until_executed").apply_async((key,), task_id="a[b]%5D on c").id == "a[b]%5D on c"
    assert shop.task(scope="until_executed").delay(key).id == "a[b]%5D on c"
    assert held(shop, key)[0].owner.startswith("work(scope='until_executed')[a%5Bb%5D%255D on c] called by ")


@pytest.mark.parametrize("id", ["7", "a[b]", "%5B", "x] called by y", "[", "%", ""])
def test_an_id_comes_back_from_the_holders_name(id: str) -> None:
    assert owners.task_id_of(owners.running("a[1] on b", id, "w[2] on x")) == id
    assert owners.task_id_of(owners.called("a", id, "host:1")) == id


@pytest.mark.parametrize("owner", ["host:123", "", "a[1]", "[1]", "a of a map", "x a[1]on b"])
def test_other_holders_are_no_tasks(owner: str) -> None:
    assert owners.task_id_of(owner) is None


def test_the_error_names_a_holder_that_is_no_task(shop: Shop, key: str) -> None:
    with shop.lock(key), pytest.raises(LockContended, match="no task") as caught:
        shop.task(scope="until_executed").delay(key)
    assert caught.value.key == key
    assert not messages(shop)


def test_raise_raises_at_the_call(shop: Shop, key: str) -> None:
    first = shop.task(scope="until_executed", on_contention="raise").delay(key)
    with pytest.raises(LockContended, match=first.id):
        shop.task(scope="until_executed", on_contention="raise").delay(key)
    assert len(messages(shop)) == 1


def test_skip_gives_a_result_that_is_there(shop: Shop, key: str) -> None:
    first = shop.task(scope="until_executed", on_contention="skip").delay(key)
    second = shop.task(scope="until_executed", on_contention="skip").delay(key)
    assert second.id != first.id
    assert len(messages(shop)) == 1
    skipped = Skipped.of(second.get(timeout=5))
    assert skipped is not None
    assert first.id in skipped["holders"][0]
    assert Skipped.of(Celery(backend=shop.app.conf.result_backend).AsyncResult(second.id).get(timeout=5)) == skipped


@pytest.mark.parametrize("results", [{"SHOP_RESULTS": "disabled://"}, {}], ids=["no backend", "ignored"])
def test_skip_without_results_gives_one_all_the_same(
    open_shop: Callable[..., Shop], key: str, results: dict[str, str]
) -> None:
    shop = open_shop(**results)
    task = shop.task(scope="until_executed", on_contention="skip")
    sent = [task.apply_async((key,), ignore_result=not results) for _ in range(2)]
    assert sent[1].successful()
    assert Skipped.of(sent[1].get()) is not None
    assert not shop.journal._redis.keys("celery-task-meta-*")


@pytest.mark.parametrize("scope", CALL_SCOPES)
def test_replace_takes_the_key_over(shop: Shop, key: str, scope: str) -> None:
    first, second = (
        shop.task(scope=scope, on_contention="replace").delay(key),
        shop.task(scope=scope, on_contention="replace").delay(key),
    )
    assert first.id != second.id
    assert [owners.task_id_of(holder.owner) for holder in held(shop, key, scope)] == [second.id]
    assert len(messages(shop)) == 2


def test_the_ttl_counts_from_when_the_message_may_run(open_shop: Callable[..., Shop], key: str) -> None:
    shop = open_shop()
    task = shop.task(scope="until_executed", ttl=60)
    now = datetime.now(timezone.utc)
    task.apply_async((f"{key}-1",), countdown=100)
    task.apply_async((f"{key}-2",), eta=now + timedelta(seconds=100))
    task.apply_async((f"{key}-3",), eta=(now + timedelta(seconds=100)).replace(tzinfo=None))
    task.apply_async((f"{key}-4",), eta=now - timedelta(seconds=100))
    task.apply_async((f"{key}-5",), expires=20)
    task.apply_async((f"{key}-6",), expires=now + timedelta(seconds=50), countdown=100)
    task.apply_async((f"{key}-7",), expires=1000)
    task.apply_async((f"{key}-8",), expires=now - timedelta(seconds=50))
    left = [held(shop, f"{key}-{number}")[0].expires_in for number in range(1, 8)]
    passed = (datetime.now(timezone.utc) - now).total_seconds()
    for seconds, expected in zip(left, [160, 160, 160, 60, 20, 50, 60], strict=True):
        assert expected - passed - 0.1 <= seconds <= expected + passed + 0.1


def test_until_expired_lasts_for_its_ttl_whenever_the_message_expires(open_shop: Callable[..., Shop], key: str) -> None:
    shop = open_shop()
    shop.task(scope="until_expired", ttl=60).apply_async((key,), expires=1)
    assert 2 < held(shop, key)[0].expires_in <= 60


def test_a_call_raises_when_the_store_is_away_and_sends_nothing(
    open_shop: Callable[..., Shop], redis_server: RedisServer, redis_url: str, proxy: Proxy, key: str
) -> None:
    shop = open_shop(SHOP_STORE=redis_url.replace(str(redis_server.port), str(proxy.port)))
    proxy.refuse()
    with pytest.raises(StoreUnavailable):
        shop.task(scope="until_executed").delay(key)
    assert not messages(shop)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["until_executed", "until_and_while_executing"])
def test_a_message_that_can_not_be_sent_leaves_no_lease(
    open_shop: Callable[..., Shop], redis_server: RedisServer, redis_url: str, proxy: Proxy, key: str, scope: str
) -> None:
    shop = open_shop(SHOP_BROKER=redis_url.replace(str(redis_server.port), str(proxy.port)))
    proxy.refuse()
    with pytest.raises(OperationalError):
        shop.task(scope=scope, ttl=100).apply_async((key,), retry=False)
    assert not held(shop, key, scope)


def test_arguments_that_celery_refuses_leave_no_lease(shop: Shop, key: str) -> None:
    with pytest.raises(TypeError):
        shop.task(scope="until_executed").delay(key, nothing=3)
    assert not held(shop, key)


@pytest.mark.parametrize("policy", ["existing", "skip", "raise"])
def test_a_refused_part_of_a_canvas_is_sent_all_the_same(shop: Shop, key: str, policy: str) -> None:
    first, then = shop.task(scope="until_executed", on_contention=policy).delay(key), shop.task("then")
    member = shop.task(scope="until_executed", on_contention=policy).si(key)
    chain(member, then.s()).apply_async()
    group(member.clone(), member.clone()).apply_async()
    chord([member.clone()], then.s()).apply_async()
    member.clone().apply_async(link=then.s())
    member.clone().apply_async(link_error=then.s())
    ours = [message["headers"]["celery_locks"] for message in messages(shop)]
    assert "token" in ours[0]
    assert [set(each) for each in ours[1:]] == [{"id", "key", "refused", "holders", "publication"}] * 6
    assert all(first.id in each["holders"][0] for each in ours[1:])


@pytest.mark.parametrize("option", [{"chain": []}, {"reply_to": "x"}, {"parent_id": "x"}, {"group_id": "x"}], ids=str)
def test_a_refused_call_is_sent_when_an_option_shows_that_others_wait_for_it(
    shop: Shop, key: str, option: dict[str, Any]
) -> None:
    shop.task(scope="until_executed").delay(key)
    shop.task(scope="until_executed").apply_async((key,), task_id="waited-for", **option)
    assert [message["headers"]["id"] for message in messages(shop)][1:] == ["waited-for"]


class TestEager:
    @pytest.fixture
    def eager(self, shop: Shop) -> Shop:
        shop.app.conf.task_always_eager = True
        return shop

    @pytest.mark.parametrize("scope", CALL_SCOPES)
    def test_promise_24_a_call_takes_its_lease_and_the_run_ends_it(self, eager: Shop, key: str, scope: str) -> None:
        assert eager.task(scope=scope).delay(key).get() == key
        assert bool(held(eager, key, scope)) == (scope == "until_expired")
        assert not (scope != "until_expired" and eager.lock(key).locked())

    @pytest.mark.parametrize("scope", CALL_SCOPES)
    def test_promise_24_it_leaves_the_lease_of_others_alone(self, eager: Shop, key: str, scope: str) -> None:
        with eager.lock(key) as lease:
            if scope == "until_and_while_executing":
                with pytest.raises(LockContended):
                    eager.task(scope=scope).delay(key).get()
            else:
                with pytest.raises(LockContended):
                    eager.task(scope=scope).delay(key)
            assert lease.held
            assert [holder.token for holder in eager.lock(key).holders()] == [lease.token]

    def test_skip(self, eager: Shop, key: str) -> None:
        with eager.lock(key):
            assert Skipped.of(eager.task(scope="until_executed", on_contention="skip").delay(key).get()) is not None

    def test_its_own_retries_run(self, eager: Shop, key: str) -> None:
        assert eager.task("retries_later", scope="until_executed").delay(key, 0).get() == key
        assert len(eager.journal.stretches(key)) == 2
        assert not held(eager, key)

    @pytest.mark.parametrize("scope", CALL_SCOPES)
    def test_autoretry(self, eager: Shop, key: str, scope: str) -> None:
        assert eager.task("autoretries", scope=scope).delay(key).state == "FAILURE"
        assert len(eager.journal.stretches(key)) == 4
        assert scope == "until_expired" or not eager.lock(key).locked()

    def test_a_plain_call_takes_nothing(self, eager: Shop, key: str) -> None:
        with eager.lock(key):
            assert eager.task(scope="until_executed")(key) == key


def test_calls_of_many_threads_send_one_message(shop: Shop, key: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: shop.task(scope="until_executed").delay(key), range(40)))
    assert len({result.id for result in results}) == 1
    assert eventually(lambda: len(messages(shop)) == 1)
