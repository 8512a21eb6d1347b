"""The Redis store: the contract on one server, and what is special to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from celery_locks import LockConfigError, Locks, StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.listing import NameRange
from celery_locks.stores.parking import Parked, Ticket
from celery_locks.stores.redis.remedies import RIGHTS
from celery_locks.stores.redis.scripts import FENCE_KEPT
from celery_locks.stores.redis.store import SCRIPT_BATCH, RedisStore
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from celery_locks.testing import StoreCompliance
from tests.stores.compliance_stores import OnRedis
from tests.support.proxy import Proxy, tls_proxy
from tests.support.servers import Binary, RedisServer, all_binaries
from tests.support.waiting import eventually

#: Commands that reach beyond the keys of locks.
HARMFUL = (
    ["FLUSHALL"],
    ["FLUSHDB"],
    ["SWAPDB", "0", "1"],
    ["KEYS", "*"],
    ["SCRIPT", "FLUSH"],
    ["FUNCTION", "FLUSH"],
    ["CONFIG", "SET", "maxmemory", "1"],
    ["CONFIG", "GET", "*"],
    ["SHUTDOWN"],
    ["SORT", "addresses:k"],
)


class TestByUrl(OnRedis, StoreCompliance):
    pass


def claim(token: str, name: str = "p:{k}", ttl: float = 60, **options: Any) -> Claim:
    return Claim(name, token, f"owner {token}", ttl, **options)


@pytest.fixture
def store(redis_url: str) -> RedisStore:
    return RedisStore(redis_url)


@pytest.fixture
def proxied(redis_server: RedisServer, redis_url: str, proxy: Proxy) -> RedisStore:
    """The store, through the proxy."""
    return RedisStore(redis_url.replace(str(redis_server.port), str(proxy.port)))


def test_connections_are_idle_for_no_longer_than_the_health_check_interval(redis_url: str) -> None:
    with closing(RedisStore(redis_url + "?health_check_interval=1")) as store:
        store.held("p:{k}")
        pool = store._connections._pools[0]
        assert pool.take(time.monotonic() + 0.5) is not None
        store.held("p:{k}")
        assert pool.take(time.monotonic() + 1.5) is None


class TestPromise21Addresses:
    def works(self, url: str) -> None:
        locks = Locks(url, prefix="addresses")  # other tests may use the same database
        with locks.lock("k") as lease:
            assert locks.lock("k").holders()[0].token == lease.token
            lease.update([1])
        assert locks.value("k") == [1]
        assert locks.delete("k")
        assert locks.list().items == ()
        assert not locks.lock("k").locked()

    def test_valkey(self, redis_url: str) -> None:
        self.works(redis_url.replace("redis://", "valkey://"))

    @pytest.mark.parametrize("form", ["unix://{}?db=3", "redis+socket://{}?virtual_host=3", "redis+socket://{}"])
    def test_unix_socket(self, redis_server: RedisServer, form: str) -> None:
        self.works(form.format(redis_server.socket_path))

    def test_a_password_with_odd_characters(self, start_redis: Callable[..., RedisServer]) -> None:
        self.works(start_redis(password="p@ss:w/rd%40 #?").url())

    @pytest.mark.parametrize("binary", all_binaries(), ids=lambda binary: binary.flavour)
    def test_promise_44_an_acl_user_with_the_rights_that_the_error_names(
        self, start_redis: Callable[..., RedisServer], binary: Binary
    ) -> None:
        """They are enough for everything, and allow nothing that harms others."""
        server = start_redis(binary, users={"locks": f"on >s%40cret@ ~addresses:* resetchannels -@all {RIGHTS}"})
        url = server.url(1, user="locks", password="s%40cret@")
        self.works(url)
        with closing(RedisStore(url)) as store:
            assert store.try_writes("addresses", parks=True) == []
            assert store.about() == str(binary).split("-")[0]
            assert not store.warnings()
            assert Locks(store, prefix="addresses").stats() is not None
            with server.client() as client:
                client.script_flush()
            assert store.try_writes("addresses", parks=True) == []
        with redis.Redis(port=server.port, username="locks", password="s%40cret@") as limited:
            for command in HARMFUL:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    limited.execute_command(*command)

    def test_promise_44_the_documented_rights_match_the_error(self) -> None:
        page = Path(__file__).parents[2] / "docs" / "how-to" / "stores.md"
        assert f"`{RIGHTS}`" in page.read_text()

    def test_the_rights_of_a_user_without_any_are_named(self, start_redis: Callable[..., RedisServer]) -> None:
        server = start_redis(users={"poor": "on >secret ~* -@all +ping"})
        with pytest.raises(StoreUnavailable, match=r"\+evalsha"):
            Locks(server.url(user="poor", password="secret")).lock("k").try_acquire()

    def test_a_wrong_password_is_reported_and_not_shown(self, start_redis: Callable[..., RedisServer]) -> None:
        server = start_redis(users={"locks": "on >right ~* +@all"})
        locks = Locks(server.url(user="locks", password="wrong-secret"))
        with pytest.raises(StoreUnavailable, match="check user and password") as caught:
            locks.lock("k").try_acquire()
        assert "wrong-secret" not in f"{caught.value} {locks.url} {locks.lock('k')!r}"

    @pytest.mark.parametrize("requirement", ["required", "CERT_REQUIRED"])
    def test_tls(self, redis_server: RedisServer, tmp_path: Path, requirement: str) -> None:
        proxy, certificate = tls_proxy(redis_server.port, tmp_path)
        with proxy:
            trust = f"ssl_cert_reqs={requirement}&ssl_ca_certs={quote(str(certificate))}"
            self.works(f"rediss://localhost:{proxy.port}/3?{trust}")
            self.works(f"valkeys://localhost:{proxy.port}/3?{trust}")

    def test_tls_with_a_certificate_without_a_known_authority(self, redis_server: RedisServer, tmp_path: Path) -> None:
        proxy, _ = tls_proxy(redis_server.port, tmp_path)
        with proxy, pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            Locks(f"rediss://localhost:{proxy.port}/3").lock("k").try_acquire()

    @pytest.mark.parametrize(
        "place", ["redis://h1/0", "redis+sentinel://h1/s", "redis+cluster://h1,h2/", "redis+redlock://h1,h2,h3/0"]
    )
    def test_parameters_of_tls_without_tls(self, place: str) -> None:
        with pytest.raises(LockConfigError, match=r"ssl_ca_certs, ssl_keyfile .* write rediss"):
            open_store(f"{place}?ssl_keyfile=k&ssl_ca_certs=%2Fca.pem")

    def test_an_address_that_can_not_be_read(self) -> None:
        with pytest.raises(LockConfigError, match="can't be read"):
            open_store("redis://localhost:port/0")

    def test_no_holder(self, proxy: Proxy) -> None:
        proxy.refuse()
        with pytest.raises(StoreUnavailable, match=str(proxy.port)):
            Locks(f"redis://127.0.0.1:{proxy.port}/0").lock("k").try_acquire()


class TestPromise23HalfDoneCalls:
    """Each reply is dropped in turn: the server did it, the client saw an error."""

    @pytest.mark.parametrize("lost", range(3))
    def test_an_acquire_repeated_is_the_same_acquire(
        self, proxied: RedisStore, proxy: Proxy, client: redis.Redis, lost: int
    ) -> None:
        client.script_flush()
        proxy.drop_reply(1, after=lost, command="EVALSHA")
        first = proxied.acquire(claim("a"))
        assert isinstance(first, Granted)
        assert proxied.acquire(claim("a")) == first
        holders = proxied.holders("p:{k}")
        assert [(holder.token, holder.fencing_token) for holder in holders] == [("a", first.fencing_token)]

    def test_a_place_in_line_is_the_same_place(self, store: RedisStore, proxied: RedisStore, proxy: Proxy) -> None:
        store.acquire(claim("a"))
        proxy.drop_reply(1, command="EVALSHA")
        answer = proxied.acquire(claim("b"), line_up=60)
        assert isinstance(answer, Refused)
        assert answer.position == 0
        assert isinstance(later := store.acquire(claim("c"), line_up=60), Refused)
        assert later.position == 1

    def test_a_release_whose_reply_is_lost_is_still_this_calls_release(
        self, store: RedisStore, proxied: RedisStore, proxy: Proxy
    ) -> None:
        proxied.acquire(claim("a"))
        proxy.drop_reply(1, command="EVALSHA")
        assert proxied.release("p:{k}", "a") is True
        assert proxy.drops_left == 0
        assert proxied.release("p:{k}", "a") is False
        assert store.release("p:{k}", "a") is False

    def test_a_renewal_whose_reply_is_lost(self, proxied: RedisStore, proxy: Proxy) -> None:
        proxied.acquire(claim("a"))
        proxy.drop_reply(1, command="EVALSHA")
        assert proxied.renew([Renewal("p:{k}", "a", 90)]) == [None]
        assert proxied.holders("p:{k}")[0].expires_in > 80

    def test_many_renewals_of_which_one_reply_is_lost(self, proxied: RedisStore, proxy: Proxy) -> None:
        names = [f"p:{{{number}}}" for number in range(5)]
        for name in names[:4]:
            proxied.acquire(claim("a", name))
        proxy.drop_reply(1, after=2, command="EVALSHA")
        renewals = [Renewal(name, "a", 90) for name in names] * (SCRIPT_BATCH // 2)  # three commands
        assert proxied.renew(renewals) == ([None] * 4 + ["deleted"]) * (SCRIPT_BATCH // 2)
        assert proxy.drops_left == 0

    def test_a_release_with_the_store_away_keeps_its_token(self, proxied: RedisStore, proxy: Proxy) -> None:
        lease = Locks(proxied).lock("k", ttl=60).acquire()
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            lease.release()
        assert not lease.lost
        proxy.heal()
        assert lease.release() is True
        assert lease.release() is False

    def test_an_acquire_that_failed_for_good_is_undone(
        self, store: RedisStore, proxied: RedisStore, proxy: Proxy
    ) -> None:
        proxy.drop_reply(2, command="EVALSHA")
        with pytest.raises(StoreUnavailable):
            Locks(proxied).lock("k", ttl=60).acquire()
        eventually(lambda: not Locks(store).lock("k").locked(), 20)

    def test_promise_05_a_run_that_never_heard_of_its_turn_runs_when_its_message_comes_again(
        self, store: RedisStore, proxied: RedisStore, proxy: Proxy
    ) -> None:
        lock, ticket = Locks(proxied, prefix="p").lock("k", ttl=60), Ticket("t", "message", "t")
        assert isinstance(store.acquire(claim("a")), Granted)
        assert isinstance(store.enter(claim("b"), ticket), Parked)
        assert [call.id for call in store.end_run("p:{k}", "a", "final", broker="")[1]] == ["t"]
        proxy.drop_reply(2, command="EVALSHA")
        with pytest.raises(StoreUnavailable):
            lock._enter(proxied, claim("c"), ticket)
        eventually(lambda: not lock.locked(), 20)
        assert isinstance(store.enter(claim("d"), ticket), Granted)


class TestScripts:
    def test_a_server_that_forgot_its_scripts(self, store: RedisStore, client: redis.Redis) -> None:
        store.acquire(claim("a"))
        client.script_flush()
        assert store.renew([Renewal("p:{k}", "a", 60)]) == [None]
        client.script_flush()
        assert store.renew([Renewal("p:{k}", "a", 60), Renewal("p:{j}", "a", 60)]) == [None, "deleted"]
        client.script_flush()
        assert store.release("p:{k}", "a")

    def test_many_renewals_are_one_round_trip(self, proxied: RedisStore, proxy: Proxy) -> None:
        """All requests are with the server before the first answer leaves it."""
        proxied.acquire(claim("a"))
        proxied.renew([Renewal("p:{k}", "a", 60)])
        proxy.delay(0.2)
        proxy.commands.clear()
        renewed: list[Any] = []
        thread = threading.Thread(
            target=lambda: renewed.extend(proxied.renew([Renewal("p:{k}", "a", 60)] * 9 * SCRIPT_BATCH)), daemon=True
        )
        thread.start()
        eventually(lambda: proxy.commands.count("EVALSHA") == 9)
        assert not renewed, "the first answer was there before the last request"
        proxy.heal()
        thread.join(30)
        assert renewed == [None] * 9 * SCRIPT_BATCH

    def test_an_acquire_and_a_release_are_a_command_each(self, proxied: RedisStore, proxy: Proxy) -> None:
        proxied.release("p:{k}", "a") or proxied.acquire(claim("b", "p:{other}"))
        proxy.commands.clear()
        proxied.acquire(claim("a"))
        proxied.release("p:{k}", "a")
        assert proxy.commands == ["EVALSHA", "EVALSHA"]


class TestWhatIsInTheServer:
    def test_everything_has_an_expiry(self, store: RedisStore, client: redis.Redis) -> None:
        store.acquire(claim("a"))
        store.acquire(claim("b"), line_up=60)
        store.acquire(claim("c"), line_up=60)
        lists = {"p:locks", "p:lines"}  # over all locks: these last longer
        assert all(0 < client.pttl(name) <= 60 * 24 * 3600 * 1000 for name in lists)
        names = set(client.keys("*")) - lists
        assert len(names) == 4
        assert all(0 < client.pttl(name) <= (60 + FENCE_KEPT) * 1000 for name in names)
        store.release("p:{k}", "a")  # which leaves a wake-up
        assert len(client.keys("*wake*")) == 1
        assert all(client.pttl(name) > 0 for name in client.keys("*"))
        store.force_release("p:{k}")
        assert all(client.pttl(name) > 0 for name in client.keys("*"))

    def test_all_of_a_lock_is_in_one_slot_of_a_cluster(self, redis_url: str, client: redis.Redis) -> None:
        for key in ("k", "a}b", "}", "}{", "{}", "{a}", "a{b}c", "käse"):
            client.flushdb()
            locks = Locks(redis_url)
            store = locks.store
            name = locks._space.name(key)
            store.acquire(claim("a", name))
            store.acquire(claim("b", name), line_up=60)
            store.acquire(claim("c", name), line_up=60)
            store.release(name, "a")
            names = set(client.keys("*")) - {"celery-locks:locks", "celery-locks:lines"}  # over all locks
            slots = {redis.crc.key_slot(name.encode()) for name in names}
            assert len(names) >= 4
            assert len(slots) == 1, f"{key!r}: {client.keys('*')}"

    def test_the_names_of_different_keys_differ(self) -> None:
        locks = Locks("memory://names")
        keys = ["}", "=}", "{=}", "}{=}", ":{=}", "a}b", "{a}b"]
        assert len({locks._space.name(key) for key in keys}) == len(keys)

    def test_promise_22_fencing_grows_after_the_key_was_lost(self, store: RedisStore, client: redis.Redis) -> None:
        first = store.acquire(claim("a"))
        client.flushall()
        second = store.acquire(claim("b"))
        assert isinstance(first, Granted)
        assert isinstance(second, Granted)
        assert second.fencing_token > first.fencing_token

    def test_fencing_grows_while_the_server_clock_is_behind(self, store: RedisStore, client: redis.Redis) -> None:
        """A clock that was set back: the last token is a day ahead of it."""
        store.acquire(claim("a"))
        ahead = int(client.hget("p:{k}", "fence") or 0) + 24 * 3600 * 10**6
        client.hset("p:{k}", "fence", ahead)
        store.release("p:{k}", "a")
        assert store.acquire(claim("b")) == Granted(ahead + 1)

    def test_a_lock_whose_deadlines_were_evicted_is_not_stuck(self, store: RedisStore, client: redis.Redis) -> None:
        store.acquire(claim("a"))
        assert isinstance(store.acquire(claim("other")), Refused)
        assert client.delete("p:{k}:until")
        assert store.renew([Renewal("p:{k}", "a", 60)]) == ["deleted"]
        assert isinstance(store.acquire(claim("b")), Granted)
        assert [holder.token for holder in store.holders("p:{k}")] == ["b"]
        assert not store.release("p:{k}", "a")

    def test_a_line_whose_deadlines_were_evicted_is_not_stuck(self, store: RedisStore, client: redis.Redis) -> None:
        store.acquire(claim("a"))
        store.acquire(claim("dead"), line_up=60)
        client.delete("p:{k}:alive")
        store.release("p:{k}", "a")
        assert isinstance(store.acquire(claim("b")), Granted)

    def test_a_line_is_kept_when_the_lock_itself_was_evicted(self, store: RedisStore, client: redis.Redis) -> None:
        store.acquire(claim("a"))
        store.acquire(claim("first"), line_up=60)
        assert client.delete("p:{k}", "p:{k}:until") == 2
        refused = store.acquire(claim("passes by"))
        assert isinstance(refused, Refused)
        assert isinstance(store.acquire(claim("first"), line_up=60), Granted)

    def test_a_line_that_ended_by_itself_is_forgotten(self, store: RedisStore, client: redis.Redis) -> None:
        store.acquire(claim("a"))
        store.acquire(claim("dead"), line_up=60)
        store.release("p:{k}", "a")
        assert client.hget("p:{k}", "lined") == "1"
        client.delete("p:{k}:line", "p:{k}:alive")
        assert isinstance(store.acquire(claim("b")), Granted)
        assert client.hget("p:{k}", "lined") is None

    def test_a_holder_of_a_free_lock_is_one_like_others(self, store: RedisStore, client: redis.Redis) -> None:
        """However it is written down, it is what others see, and what they make of it."""
        store.acquire(claim("a"))
        assert client.exists("p:{k}:until") == 0
        before = store.holders("p:{k}")
        listed = store.page(NameRange("p", "p:{", "", 10)).items
        assert isinstance(store.acquire(claim("b")), Refused)  # spread now
        assert client.exists("p:{k}:until") == 1
        after = store.holders("p:{k}")
        known = [(h.token, h.owner, h.fencing_token, h.permits, h.limit) for h in before]
        assert known == [(h.token, h.owner, h.fencing_token, h.permits, h.limit) for h in after]
        assert [h.token for state in listed for h in state.holders] == ["a"]
        assert after[0].expires_in == pytest.approx(before[0].expires_in, abs=30)
        assert store.release("p:{k}", "a")
        assert store.holders("p:{k}") == ()
        assert store.page(NameRange("p", "p:{", "", 10)).items == ()


class TestAnswers:
    def test_an_answer_that_comes_in_pieces_is_read_whole(self, redis_url: str, proxy: Proxy) -> None:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/{redis_url.rpartition('/')[2]}")
        store.acquire(claim("a"))
        proxy.dribble()
        assert [holder.token for holder in store.holders("p:{k}")] == ["a"]
        assert store.release("p:{k}", "a")
        granted = store.acquire(claim("b"))
        assert isinstance(granted, Granted)
        assert granted.fencing_token > 10**15, "all digits of it"
        assert isinstance(store.acquire(claim("c")), Refused)
        assert store.release("p:{k}", "b")


class TestTimeouts:
    def test_an_answer_is_waited_for_less_than_a_third_of_the_ttl(self, store: RedisStore) -> None:
        for ttl in (0.3, 0.5, 1, 1.5, 2, 5, 7.9, 8, 30, 1000):
            timeout = store._connections.for_ttl(ttl).redis.connection_pool.connection_kwargs["socket_timeout"]
            assert 0.05 <= timeout < ttl / 3
        assert len(store._connections._clients) < 8

    def test_a_server_that_hangs_is_given_up(self, start_redis: Callable[..., RedisServer]) -> None:
        server = start_redis()
        store = RedisStore(server.url())
        store.acquire(claim("a", ttl=1))
        with server.paused(), pytest.raises(StoreUnavailable, match="Timeout"):
            store.acquire(claim("b", ttl=1))
        assert isinstance(store.acquire(claim("b", "p:{other}", ttl=1)), Granted)

    def test_a_server_that_restarts_is_found_again(self, start_redis: Callable[..., RedisServer]) -> None:
        server = start_redis(appendonly=True)
        store = RedisStore(server.url())
        first = store.acquire(claim("a"))
        server.restart(keep_data=True)
        assert store.acquire(claim("a")) == first
        server.restart(keep_data=False)
        assert store.renew([Renewal("p:{k}", "a", 60)]) == ["deleted"]

    def test_memory_that_ran_out_is_reported_and_a_release_still_works(
        self, start_redis: Callable[..., RedisServer]
    ) -> None:
        server = start_redis()
        store = RedisStore(server.url())
        store.acquire(claim("a"))
        server.client().config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match=r"OOM|maxmemory"):
            store.acquire(claim("b", "p:{other}"))
        assert store.release("p:{k}", "a") is True
