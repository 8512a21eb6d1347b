"""Connections to a Redis or Valkey: what breaks costs one timeout, and what is idle ends."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, ClassVar

import pytest
import redis

from celery_locks import LockConfigError, Locks, LockTimeout, StoreUnavailable, renewal
from celery_locks.stores import open_store
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.redis.wire import client as client_module
from celery_locks.stores.redis.wire.client import LONGEST_IDLE_SECONDS, MOST_IDLE, Pool
from celery_locks.stores.redis.wire.connection import Connection
from celery_locks.stores.redis.wire.connections import patient_ttl, timeout_for
from celery_locks.stores.redis.wire.driver import driver
from celery_locks.stores.redis.wire.protocol import packed, repeated
from celery_locks.stores.types import Claim, Granted, Refused, Renewal
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.redis

NAME = "p:{k}"
#: The request timeout of these tests, in seconds.
TIMEOUT_SECONDS = 0.4


def claim(token: str, name: str = NAME, ttl: float = 60, **options: Any) -> Claim:
    return Claim(name, token, token, ttl, **options)


@pytest.fixture
def url(redis_url: str, redis_server: RedisServer, proxy: Proxy) -> str:
    """The server's address, through the proxy."""
    return f"redis://127.0.0.1:{proxy.port}/{redis_url.rpartition('/')[2]}?request_timeout={TIMEOUT_SECONDS}"


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    with closing(RedisStore(url)) as store:
        yield store


def fill(store: RedisStore, count: int) -> None:
    """Leave idle connections behind, as that many busy threads do."""
    client = store._connections.for_ttl()
    busy = [client.send([packed(("PING",))]) for _ in range(count)]
    for connection in busy:
        assert client.receive(connection, 1) == [b"PONG"]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


class TestPromise36DeadConnections:
    #: What a store does over a connection that it has.
    CALLS: ClassVar[dict[str, Callable[[RedisStore], Any]]] = {
        "acquire": lambda store: store.acquire(claim("a")),
        "release": lambda store: store.release(NAME, "a"),
        "renew": lambda store: store.renew([Renewal(NAME, "a", 60), Renewal(NAME, "b", 60)]),
        "a value": lambda store: store.value(NAME),
        "ping": lambda store: store.ping(),
        "about": lambda store: store.about(),
        "checks": lambda store: store.checks(parks=True),
        "a page of what is due": lambda store: store.sweep("p", ""),
    }

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    def test_half_open_ones_cost_one_timeout(
        self, store: RedisStore, proxy: Proxy, call: Callable[[RedisStore], Any]
    ) -> None:
        fill(store, 8)
        proxy.half_open()
        with at_most(2 * TIMEOUT_SECONDS):
            call(store)
        with at_most(TIMEOUT_SECONDS / 2):  # the others are gone, too
            call(store)

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    def test_waits_that_were_cut_are_no_error(
        self, store: RedisStore, proxy: Proxy, call: Callable[[RedisStore], Any]
    ) -> None:
        fill(store, 4)
        proxy.cut()
        call(store)

    def test_leases_of_other_ttls_share_the_connections(self, store: RedisStore, proxy: Proxy) -> None:
        store.acquire(claim("a", ttl=60))
        store.acquire(claim("b", "p:{b}", ttl=1))
        assert store._connections._pools[0].idle == 1

    @pytest.mark.parametrize("fault", ["cut", "half_open"])
    def test_a_wait_over_a_dead_connection_ends_early(self, store: RedisStore, proxy: Proxy, fault: str) -> None:
        store.acquire(claim("a"))
        store.acquire(claim("b"), 10)
        getattr(proxy, fault)()
        with at_most(3 * TIMEOUT_SECONDS):
            assert store.wait_any([(NAME, "b")], 0.1) == ("b",)
        answer = store.acquire(claim("b"), 10)
        assert isinstance(answer, Refused)
        assert answer.position == 0

    def test_a_wait_that_is_cut_keeps_its_place(self, url: str, proxy: Proxy) -> None:
        with closing(Locks(url)) as locks:
            lease = locks.lock("k").acquire()
            cut, release = threading.Timer(0.2, proxy.cut), threading.Timer(0.5, lease.release)
            for timer in (cut, release):
                timer.start()
            with at_most(2):
                locks.lock("k").acquire(timeout=10).release()

    def test_the_sweeper_waits_on(self, store: RedisStore, proxy: Proxy) -> None:
        store.await_due("p", "", 0.01)
        proxy.cut()
        store.await_due("p", "", 0.01)

    def test_a_server_that_closes_idle_connections(self, start_redis: Callable[..., RedisServer]) -> None:
        server = start_redis(options={"timeout": "1"})
        with closing(RedisStore(server.url())) as store, server.client() as client:

            def contend() -> None:
                assert isinstance(store.acquire(claim("b"), 60), Refused)
                store.wait(NAME, "b", 0.05)

            store.acquire(claim("a"))
            contend()
            eventually(lambda: len(client.client_list()) == 1, 10)
            contend()


class TestRepeats:
    def test_they_go_by_a_new_connection_and_say_so(self, store: RedisStore, proxy: Proxy) -> None:
        script = Script("return {#ARGV, ARGV[#ARGV] or 'none'}")
        command = packed(("EVALSHA", script.sha, 1, NAME, "one"))
        fill(store, 4)
        assert store._call(script, NAME, command) == [1, b"one"]
        proxy.drop_reply(1, command="EVALSHA")
        assert store._call(script, NAME, command) == [2, b"repeat"]
        assert store._connections._pools[0].idle == 1

    def test_once_at_most(self, store: RedisStore, proxy: Proxy) -> None:
        store.held(NAME)
        proxy.drop_reply(2, command="EVALSHA")
        proxy.commands.clear()
        with pytest.raises(StoreUnavailable):
            store.held(NAME)
        assert proxy.commands.count("EVALSHA") == 2

    def test_one_more_argument(self) -> None:
        assert repeated(packed(("A", "b"))) == packed(("A", "b", "repeat"))
        assert repeated(packed(["A"] * 9)) == packed([*["A"] * 9, "repeat"])


class TestTimeouts:
    def test_a_caller_is_not_kept_for_longer_than_it_waits(self, start_redis: Callable[..., RedisServer]) -> None:
        server = start_redis()
        with closing(Locks(server.url())) as locks:
            locks.lock("k").acquire().release()
            with server.paused(), at_most(1.2), pytest.raises((StoreUnavailable, LockTimeout)):
                locks.lock("k").acquire(timeout=0.1)

    def test_a_caller_in_line_is_not_kept_either(self, start_redis: Callable[..., RedisServer]) -> None:
        server = start_redis()
        with closing(Locks(server.url())) as locks:
            locks.lock("k", renew=False).acquire()
            pause = threading.Timer(0.1, server.pause)
            pause.start()
            try:
                with at_most(2.5), pytest.raises((StoreUnavailable, LockTimeout)):
                    locks.lock("k").acquire(timeout=0.5)
            finally:
                pause.join()
                server.resume()

    @pytest.mark.parametrize(
        ("patience", "ttl", "timeout"),
        [(None, 60, 2), (10, 60, 2), (1, 60, 0.5), (0.1, 60, 0.25), (0, 60, 0.25), (0.1, 0.5, 0.125)],
    )
    def test_both_copies_of_a_claim_end_before_the_caller_gives_up(
        self, patience: float | None, ttl: float, timeout: float
    ) -> None:
        assert timeout_for(patient_ttl(claim("a", ttl=ttl, patience=patience))) == timeout

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
    def test_signals_do_not_begin_it_anew(self, url: str, proxy: Proxy) -> None:
        with closing(RedisStore(url)) as store:
            store.held(NAME)
            proxy.hang()
            before = signal.signal(signal.SIGALRM, lambda *_: None)
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            try:
                with at_most(4 * TIMEOUT_SECONDS), pytest.raises(StoreUnavailable, match="Timeout"):
                    store.held(NAME)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)

    @pytest.mark.parametrize("form", ["redis://127.0.0.1:1/0", "redis+cluster://127.0.0.1:1", "redis+sentinel://h/s/0"])
    def test_they_are_parameters_of_an_address(self, form: str) -> None:
        store: Any = open_store(f"{form}?connect_timeout=0.5&request_timeout=1.5")
        with closing(store):
            client = store._connections.for_ttl()
            assert client.timeout == 1.5
            assert client.redis.connection_pool.connection_kwargs["socket_connect_timeout"] == 0.5
            assert store._connections.for_ttl(2).timeout == 0.5

    def test_they_are_arguments_with_a_client(self) -> None:
        with closing(RedisStore(redis.Redis(), connect_timeout=0.5, request_timeout=1)) as store:
            assert store._connections.for_ttl().timeout == 1

    @pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", ""])
    @pytest.mark.parametrize("name", ["connect_timeout", "request_timeout"])
    def test_others_are_refused(self, name: str, value: str) -> None:
        with pytest.raises(LockConfigError, match=name):
            open_store(f"redis://localhost/0?{name}={value}")

    def test_a_server_that_is_not_there_costs_the_time_to_connect(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            place = listener.getsockname()
            queued = [socket.socket() for _ in range(4)]
            for each in queued:
                each.setblocking(False)
                each.connect_ex(place)
            with at_most(1.5), pytest.raises(StoreUnavailable):
                open_store(f"redis://127.0.0.1:{place[1]}/0?connect_timeout=0.3").ping()
            for each in queued:
                each.close()


class FakeConnection:
    used_at = 0.0
    closed = False

    def disconnect(self) -> None:
        self.closed = True


class TestIdleConnections:
    def put(self, pool: Pool, count: int, now: float = 0.0) -> list[Any]:
        connections = [FakeConnection() for _ in range(count)]
        for connection in connections:
            pool.put(connection, now)  # type: ignore[arg-type]
        return connections

    def test_their_number_is_limited(self) -> None:
        pool = Pool()
        connections = self.put(pool, MOST_IDLE + 3)
        assert pool.idle == MOST_IDLE
        assert [each.closed for each in connections] == [True] * 3 + [False] * MOST_IDLE

    def test_connections_left_by_a_burst_end_while_others_are_used(self) -> None:
        pool = Pool()
        connections = self.put(pool, 10)
        now = LONGEST_IDLE_SECONDS - 1
        last = pool.take(now)
        assert last is not None
        pool.put(last, now)
        assert pool.idle == 10
        assert pool.take(now) is last
        pool.put(last, LONGEST_IDLE_SECONDS + 1)
        assert pool.idle == 1
        assert [each.closed for each in connections] == [True] * 9 + [False]

    def test_one_that_was_idle_for_long_is_not_used(self) -> None:
        pool = Pool()
        connections = self.put(pool, 3)
        assert pool.take(LONGEST_IDLE_SECONDS + 1) is None
        assert all(each.closed for each in connections)

    def test_a_burst(self, store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client_module, "MOST_IDLE", 5)
        fill(store, 12)
        assert store._connections._pools[0].idle == 5


class TestAnswers:
    @pytest.fixture
    def both(self) -> Iterator[tuple[Connection, socket.socket]]:
        ours, theirs = socket.socketpair()
        made = redis.Connection()
        made._sock = ours
        connection = Connection(made, driver("redis"))
        connection.set_timeout(5)
        connection.until = time.monotonic() + 5
        with ours, theirs:
            yield connection, theirs

    @pytest.mark.parametrize(
        ("sent", "answer"),
        [
            (b":12\r\n", 12),
            (b":-1\r\n", -1),
            (b"+OK\r\n", b"OK"),
            (b"$-1\r\n", None),
            (b"*-1\r\n", None),
            (b"_\r\n", None),
            (b"$0\r\n\r\n", b""),
            (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
            (b"*3\r\n:1\r\n*1\r\n$1\r\na\r\n*0\r\n", [1, [b"a"], []]),
            (b"%1\r\n+a\r\n:1\r\n", {b"a": 1}),
            (b"~2\r\n:1\r\n:2\r\n", [1, 2]),
            (b"#t\r\n", True),
            (b",1.5\r\n", 1.5),
            (b"(12345678901234567890\r\n", 12345678901234567890),
            (b"=7\r\ntxt:abc\r\n", b"txt:abc"),
            (b"|1\r\n+a\r\n+b\r\n:3\r\n", 3),
            (b">2\r\n+invalidate\r\n_\r\n:3\r\n", 3),
        ],
    )
    def test_each_kind(self, both: tuple[Connection, socket.socket], sent: bytes, answer: Any) -> None:
        connection, server = both
        server.sendall(sent)
        assert connection.receive() == answer
        server.sendall(b":7\r\n")
        assert connection.receive() == 7

    @pytest.mark.parametrize("sent", [b"-ERR no\r\n", b"!6\r\nERR no\r\n"])
    def test_an_error(self, both: tuple[Connection, socket.socket], sent: bytes) -> None:
        connection, server = both
        server.sendall(sent)
        answer = connection.receive()
        assert isinstance(answer, redis.ResponseError)
        assert "no" in str(answer)

    @pytest.mark.parametrize("push", [b">3\r\n+MIGRATED\r\n:5\r\n+1\r\n", b">2\r\n$10\r\ninvalidate\r\n_\r\n"])
    def test_a_push_message_right_behind_a_number(self, both: tuple[Connection, socket.socket], push: bytes) -> None:
        connection, server = both
        server.sendall(b":1\r\n" + push)
        assert connection.receive() == 1
        server.sendall(b":2\r\n")
        assert connection.receive() == 2

    def test_a_number_whose_digits_come_apart(self, both: tuple[Connection, socket.socket]) -> None:
        connection, server = both
        server.sendall(b":1")
        threading.Timer(0.02, server.sendall, (b"2\r",)).start()
        threading.Timer(0.04, server.sendall, (b"\n",)).start()
        assert connection.receive() == 12

    def test_a_command_that_the_server_does_not_read(self, both: tuple[Connection, socket.socket]) -> None:
        connection, _ = both
        connection.set_timeout(0.1)
        with at_most(1), pytest.raises(redis.TimeoutError):
            connection.send(b"x" * 10_000_000)

    def test_a_command_that_the_server_reads_slowly(self, both: tuple[Connection, socket.socket]) -> None:
        connection, server = both
        size, received = 3_000_000, bytearray()

        def read() -> None:
            while len(received) < size:
                received.extend(server.recv(100_000))
            server.sendall(b":1\r\n")

        thread = threading.Thread(target=read)
        thread.start()
        connection.send(b"x" * size)
        assert connection.receive() == 1
        thread.join()

    def test_another_protocol(self, both: tuple[Connection, socket.socket]) -> None:
        connection, server = both
        server.sendall(b"HTTP/1.1 400 Bad Request\r\n")
        with pytest.raises(redis.ConnectionError, match="HTTP"):
            connection.receive()


class TestPromise42NothingIsLeft:
    def test_a_locks_for_each_request(self, redis_server: RedisServer, redis_url: str) -> None:
        def request() -> None:
            with closing(Locks(redis_url)) as locks, locks.lock("k"):
                pass

        def left() -> tuple[int, int, int]:
            parts = renewal.keeper()
            return (
                len(parts._renewers) + len(parts._releasers) + len(parts._readers),
                sum(thread.name.startswith(("celery-locks-re", "celery-locks-no")) for thread in threading.enumerate()),
                len(client.client_list()),
            )

        with redis_server.client() as client:
            before = left()
            for _ in range(20):
                request()
            eventually(lambda: all(now <= then for now, then in zip(left(), before, strict=True)), 5)

    def test_a_lease_that_is_still_held_is_renewed_until_its_release(self, redis_url: str) -> None:
        locks, keeper = Locks(redis_url), renewal.keeper()
        lease = locks.lock("k", ttl=0.5).acquire()
        locks.close()
        confirmed = lease._confirmed
        eventually(lambda: lease._confirmed > confirmed, 5)
        assert lease.release()
        locks.close()
        assert id(locks.store) not in keeper._renewers

    def test_a_closed_store_connects_again(self, redis_url: str) -> None:
        with closing(RedisStore(redis_url)) as store:
            store.close()
            assert isinstance(store.acquire(claim("a")), Granted)
            assert store.release(NAME, "a")
