"""``celery locks doctor``: what it finds on real stores, brokers and workers, and that its remedies remedy it."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from kombu.common import Broadcast
from redis import Redis
from redis.exceptions import NoPermissionError

from celery_locks import LockedTask, Locks, StoreUnavailable
from celery_locks.cli import doctor_broker as broker_checks
from celery_locks.stores import open_store
from celery_locks.stores.parking import tickets_of
from celery_locks.stores.redis.remedies import RIGHTS
from celery_locks.stores.redis.store import RedisStore
from tests.support.celery_worker import Worker
from tests.support.cli import Run, found, make_app, nothing
from tests.support.clusters import Cluster
from tests.support.servers import RedisServer
from tests.support.sql_servers import PASSWORD, MariaDBServer, PostgresServer
from tests.support.waiting import eventually

Start = Callable[..., RedisServer]
SOON = 60.0
pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("no_shared_tasks")]


def the_only(app: Celery, status: str, check: str) -> str:
    """The text of what is not ok, which must be this check alone."""
    code = {"warning": 1, "error": 2}[status]
    wrong = [item for items in found(app, code).values() for item in items if item["status"] != "ok"]
    assert [(item["status"], item["check"]) for item in wrong] == [(status, check)], wrong
    return wrong[0]["text"]


# ---------------------------------------------------------------------- all is well


def test_all_is_well(redis_url: str, redis_server: RedisServer) -> None:
    lines = Run(make_app(redis_url))("doctor").output.splitlines()
    assert all(line.startswith("ok ") for line in lines), lines
    for part in (
        str(redis_server.binary),
        "a throwaway lock was acquired, renewed, waited for and released",
        "no lease is evicted",
        "no free key has a line",
        "like this machine's",
        "messages: the broker accepted a message",
        "consumers: not known",
    ):
        assert any(part in line for line in lines), part
    assert any(re.search(r"\d+ locked task", line) for line in lines), lines  # those of other tests are in it


def test_a_file(tmp_path: Path) -> None:
    output = Run(make_app(f"sqlite:///{tmp_path}/l.db"))("doctor").output
    assert f"store: SQLite {sqlite3.sqlite_version} at sqlite:///" in output


def test_a_database(postgresql_server: PostgresServer) -> None:
    output = Run(make_app(postgresql_server.url()))("doctor").output
    assert re.search(r"store: PostgreSQL \d+\S* at postgresql://", output)
    assert PASSWORD not in output


def shapes(server: RedisServer) -> set[tuple[str, str]]:
    """The keys of a server without what is random in them, and their kinds."""
    with server.client() as client:
        return {(re.sub(r"\{.*\}|[0-9a-f-]{32,}", "…", key), client.type(key)) for key in client.keys("*")}


def test_nothing_is_left_of_the_tries_but_what_a_released_lock_leaves(start_redis: Start) -> None:
    server, broker = start_redis(), start_redis()
    with Locks(server.url()).lock("k"):
        pass
    left = shapes(server)
    with server.client() as client:
        client.flushall()
    app = make_app(server.url(), locks_on_contention="park", broker_url=broker.url())
    tried = found(app, 1)  # there is no worker
    assert "parked and dispatched" in tried["writes"][0]["text"]
    assert tried["messages"][0]["status"] == "ok"
    eventually(lambda: shapes(server) == left, message=f"{shapes(server)} is left, not {left}")  # values expire
    assert not {key for key, _ in shapes(broker) if "doctor" in key}
    # Kombu's own, when it asks for workers: by it the bindings of queues expire.
    assert {key for key, _ in shapes(broker)} <= {"_kombu.binding_deadlines"}


@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "sqlite"])
def test_nothing_is_left_in_a_database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/l.db"
    else:
        url = f"{request.getfixturevalue(f'{kind}_url')}?table_prefix=trial_{os.getpid()}_"
    store = open_store(url)
    store.try_writes("trial", parks=True)
    rows = {table: _count(store, f"SELECT count(*) FROM celery_locks_{table}") for table in ("holder", "waiter")}
    rows |= {table: _count(store, f"SELECT count(*) FROM celery_locks_{table}") for table in ("value", "ticket")}
    assert rows == {"holder": 0, "waiter": 0, "value": 0, "ticket": 0}
    assert tickets_of(store) is not None
    store.close()


def _count(store: Any, query: str) -> int:
    return int(store._read("", lambda session: session.execute(query).fetchone()[0]))


def test_no_lock_of_the_site_is_touched(redis_url: str) -> None:
    locks = Locks(redis_url)
    with locks.lock("k") as lease:
        found(make_app(redis_url, locks_on_contention="park"))
        assert lease.held
        assert [item.key for item in locks.list().items] == ["k"]


# ---------------------------------------------------------------------- settings


def test_settings_that_break_locks_are_warned_of(start_redis: Start) -> None:
    server = start_redis(maxmemory_policy="allkeys-lru", options={"maxmemory": "100mb", "save": '""'})
    settings = {"broker_transport_options": {"visibility_timeout": 30}, "locks_on_contention": "park"}
    settings["locks_park_safety_copy"] = True
    app = make_app(server.url(), **settings)
    app.conf.broker_url = server.url()
    items = found(app, 1)
    remedies = {
        "eviction": "Set maxmemory-policy noeviction",
        "persistence": "Set appendonly yes",
        "visibility timeout": "Set it in broker_transport_options",
    }
    for check, remedy in remedies.items():
        assert items[check][0]["status"] == "warning"
        assert remedy in items[check][0]["text"]
    assert items["store"][0]["status"] == items["writes"][0]["status"] == "ok"


def test_a_setting_that_is_none(redis_url: str) -> None:
    output = Run(make_app(redis_url, locks_tll=5))("doctor", status=2).output
    assert "there is no setting locks_tll; did you mean 'locks_ttl'?" in output


def test_a_stuck_waiter(redis_url: str) -> None:
    """One is in line for a key that is free, and doesn't come."""
    locks = Locks(redis_url)
    lease = locks.lock("user:7").acquire()
    assert locks.store.acquire(locks.lock("user:7")._new_claim(), 60) is not None
    lease.release()
    output = Run(make_app(redis_url))("doctor", "--patience", "0.5", status=1).output
    assert "1 free key has a line that no worker dispatches: user:7." in output
    assert "locks sweep" in output


# ---------------------------------------------------------------------- a store that is away, or refuses


def test_a_store_that_is_away(start_redis: Start) -> None:
    server = start_redis(password="s3cret")
    run = Run(make_app(server.url()))
    server.stop()
    output = run("doctor", status=2).output
    statuses = {line.split(":")[0].split(maxsplit=1)[1]: line.split()[0] for line in output.splitlines()}
    assert statuses.pop("store") == "error"
    others = ("versions", "settings", "broker", "messages", "consumers", "visibility timeout")
    assert statuses == dict.fromkeys(others, "ok")
    assert "the lock store redis://:***@127.0.0.1" in output
    assert "s3cret" not in output


def without_replicas(start_redis: Start) -> RedisServer:
    return start_redis(options={"min-replicas-to-write": "1"})


def full(start_redis: Start) -> RedisServer:
    server = start_redis(maxmemory_policy="noeviction")
    with server.client() as client:
        client.set("filled", "x" * 4_000_000)
        client.config_set("maxmemory", "2mb")
    return server


def replica(start_redis: Start) -> RedisServer:
    return start_redis(options={"replicaof": f"127.0.0.1 {start_redis().port}"})


def unsaved(start_redis: Start) -> RedisServer:
    """A server that can't save, since its folder is gone."""
    server = start_redis(options={"save": "3600 1", "enable-protected-configs": "yes"})
    with TemporaryDirectory() as folder, server.client() as client:
        client.config_set("dir", folder)
    with server.client() as client:
        client.set("changed", 1)
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", SOON)
    return server


REFUSALS = {
    "NOREPLICAS": (without_replicas, "min-replicas-to-write 0"),
    "OOM": (full, "Raise maxmemory"),
    "READONLY": (replica, "redis+sentinel://"),
    "MISCONF": (unsaved, "stop-writes-on-bgsave-error no"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_server_that_refuses_writes(start_redis: Start, code: str) -> None:
    make, remedy = REFUSALS[code]
    server = make(start_redis)
    check = "store" if code == "MISCONF" else "writes"  # such a server refuses even PING
    text = the_only(make_app(server.url()), "error", check)
    assert check == "store" or "a lock can't be acquired" in text
    assert code in text
    assert remedy in text
    with pytest.raises(StoreUnavailable) as caught:  # a worker logs the same
        Locks(server.url()).lock("k").try_acquire()
    assert code in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "lacks"),
    [
        ("~celery-locks:* +@all -hset", "the command hset"),
        ("~celery-locks:* +@all -rpush", "the command rpush"),  # the wake-up of a waiter
        ("~celery-locks:* +@all -blpop", "the command blpop"),
        ("~celery-locks:* +@all -unlink", "the command unlink"),
        ("~celery-locks:* +@all -evalsha", "the command evalsha"),
        ("~other:* +@all", "a key"),
        ("~celery-locks:{* +@all", "a key"),  # not the list of what is held
        ("~celery-locks:* +ping", "a command"),
    ],
)
@pytest.mark.parametrize("db", [0, 3])
def test_the_rights_that_a_user_lacks_are_named(start_redis: Start, rules: str, lacks: str, db: int) -> None:
    rule = f"on >secret resetchannels -@all {rules} +select"
    server = start_redis(users={"limited": rule}, options={"save": "60 1"})
    app = make_app(server.url(db, user="limited", password="secret"), locks_on_contention="park")
    text = the_only(app, "error", "writes")
    assert "NOPERM" in text
    assert lacks in text or (lacks == "a command" and "the command" in text)
    user, keys, rights = re.search(
        r"by ACL SETUSER (\S+), give it the keys (\S+), and allow this user (.+)", text
    ).groups()  # type: ignore[union-attr]
    assert user in ("limited", "USER")
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "limited", "reset", "on", ">secret", "resetchannels", *rights.split(), keys
        )
    found(make_app(server.url(db, user="limited", password="secret"), locks_on_contention="park"))


def test_the_rights_that_are_named_are_for_the_sites_own_prefix(start_redis: Start) -> None:
    server = start_redis(users={"limited": "on >secret ~celery-locks:* +@all"})
    app = make_app(server.url(user="limited", password="secret"), locks_prefix="shop")
    assert the_only(app, "error", "writes").find("give it the keys ~shop:*,") > 0


@pytest.mark.parametrize(
    ("password", "code", "remedy"),
    [("wrong", "WRONGPASS", "check user and password"), (None, "NOAUTH", "asks for a password")],
)
def test_a_password_that_is_wrong_or_missing(start_redis: Start, password: str | None, code: str, remedy: str) -> None:
    server = start_redis(password="right")
    url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{server.port}/0"
    text = the_only(make_app(url), "error", "store")
    assert remedy in text


def test_each_master_of_a_cluster_is_tried(redis_cluster: Cluster) -> None:
    app = make_app(redis_cluster.url())
    found(app)
    open_store(redis_cluster.url()).try_writes("celery-locks", parks=True)
    for master in redis_cluster.masters:
        redis_cluster.call(master, "CONFIG", "SET", "min-replicas-to-write", "1")
        try:
            text = the_only(app, "error", "writes")
        finally:
            redis_cluster.call(master, "CONFIG", "SET", "min-replicas-to-write", "0")
        assert "NOREPLICAS" in text


def test_each_shard_is_tried(start_redis: Start, redis_url: str) -> None:
    for bad in (0, 1):
        urls = [redis_url, redis_url.rpartition("/")[0] + "/511"]
        urls[bad] = without_replicas(start_redis).url()
        assert "NOREPLICAS" in the_only(make_app("sharded:" + "|".join(urls)), "error", "writes")


@pytest.mark.parametrize(("refusing", "status"), [(1, "warning"), (2, "error")])
def test_a_majority_is_enough(start_redis: Start, refusing: int, status: str) -> None:
    servers = [without_replicas(start_redis) if number < refusing else start_redis() for number in range(3)]
    url = "redlock://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    app = make_app(url)
    items = found(app, 2 if status == "error" else 1)
    assert {item["status"] for item in items["writes"]} == {status}
    assert all("NOREPLICAS" in item["text"] for item in items["writes"])


def test_a_right_that_only_a_majority_needs(start_redis: Start) -> None:
    servers = [
        start_redis(users={"limited": f"on >secret {RIGHTS.removesuffix(' +info')} ~celery-locks:*"}) for _ in range(3)
    ]
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    app = make_app(f"redlock://limited:secret@{hosts}?restart_delay=0.01")
    items = found(app, 2)
    assert "it lacks the command info" in items["writes"][0]["text"]
    assert f"allow this user {RIGHTS}" in items["writes"][0]["text"]


# ---------------------------------------------------------------------- databases


@pytest.fixture
def limited(postgresql_server: PostgresServer) -> Iterator[Callable[..., str]]:
    """Makes the tables of a prefix, and a user with these rights on them; gives its address."""
    import psycopg

    name = f"limited_{os.urandom(4).hex()}"
    with psycopg.connect(postgresql_server.url(), autocommit=True) as db:

        def make(*statements: str, tables: bool = True) -> str:
            query = f"table_prefix={name}_"
            if tables:
                open_store(postgresql_server.url(query=query)).ping()
                Run(make_app(postgresql_server.url(query=query)))("doctor", "--patience", "0")
            db.execute(f"CREATE USER {name} PASSWORD 'secret'")
            names = [row[0] for row in db.execute("SELECT tablename FROM pg_tables") if row[0].startswith(name)]
            for table in names:
                db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {name}")
            functions = "SELECT oid::regprocedure::text FROM pg_proc WHERE starts_with(proname, %s)"
            for (function,) in db.execute(functions, (name,)).fetchall():
                db.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM public")
                db.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {name}")
                for statement in statements:
                    if "FUNCTION" in statement and f"{name}_release" in function:
                        db.execute(statement.format(name, function))
            for statement in statements:
                if "FUNCTION" not in statement:
                    db.execute(statement.format(name))
            return f"postgresql://{name}:secret@127.0.0.1:{postgresql_server.port}/locks?{query}"

        yield make
        db.execute(f"DROP OWNED BY {name}")
        db.execute(f"DROP USER {name}")


@pytest.mark.parametrize(
    ("statements", "parts"),
    [
        ((), ()),
        (("REVOKE INSERT ON {0}_holder FROM {0}",), ("permission denied for table", "GRANT SELECT, INSERT, UPDATE")),
        (("REVOKE EXECUTE ON FUNCTION {1} FROM {0}",), ("permission denied for function", "GRANT EXECUTE ON FUNC")),
        (("ALTER USER {0} SET default_transaction_read_only = on",), ("read-only", "address of the primary")),
    ],
    ids=["all rights", "a table", "a function", "read-only"],
)
def test_a_user_of_a_database(limited: Callable[..., str], statements: tuple[str, ...], parts: tuple[str, ...]) -> None:
    app = make_app(limited(*statements))
    items = [item for every in found(app, 2 if parts else 0).values() for item in every]
    errors = [item["text"] for item in items if item["status"] == "error"]
    if parts:
        assert errors
    for part in parts:
        assert all(part in text for text in errors), errors


def test_tables_that_are_missing_and_can_not_be_made(limited: Callable[..., str]) -> None:
    app = make_app(limited("REVOKE CREATE ON SCHEMA public FROM public", tables=False))
    text = the_only(app, "error", "store")
    assert "permission denied for schema public" in text
    assert "celery -A … locks sql" in text


def test_a_user_of_mariadb_who_lacks_a_right(mariadb_server: MariaDBServer) -> None:
    import pymysql

    name = f"limited_{os.urandom(4).hex()}"
    query = f"table_prefix={name}_"
    Run(make_app(mariadb_server.url(query=query)))("doctor", "--patience", "0")
    socket_ = str(mariadb_server.data / "socket")
    with pymysql.connect(unix_socket=socket_, user="root", autocommit=True) as db, db.cursor() as cursor:
        cursor.execute(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'secret'")
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_name LIKE %s", (f"{name}%",))
        tables = [row[0] for row in cursor.fetchall()]
        for table in tables:
            cursor.execute(f"GRANT SELECT, UPDATE, DELETE ON locks.{table} TO {name}@'127.0.0.1'")
        for table in tables:
            if not table.endswith("_holder"):
                cursor.execute(f"GRANT INSERT ON locks.{table} TO {name}@'127.0.0.1'")
    app = make_app(f"mysql://{name}:secret@127.0.0.1:{mariadb_server.port}/locks?{query}")
    text = the_only(app, "error", "writes")
    assert re.search(
        rf"GRANT SELECT, INSERT, UPDATE, DELETE ON `locks`.`{name}_holder` TO '{name}'@'127.0.0.1'", text
    ), text


def as_another_user(action: Callable[[], str]) -> str:
    """What the action returns in a child without root's rights, who may not even read modules."""
    Run(make_app("memory://"))("doctor", "--patience", "0", status=1)  # loads them
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            os.write(writer, action().encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as output:
        return output.read()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_file_that_can_not_be_written(what: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "locks.db")
        with closing(open_store(f"sqlite:///{path}")) as store:
            if what == "file":
                store.ping()
                path.chmod(0o444)
        os.chmod(folder, 0o555)
        app = make_app(f"sqlite:///{path}")
        output = as_another_user(lambda: Run(app)("doctor", "--patience", "0", status=2).output)
    [error] = [line for line in output.splitlines() if line.startswith("error")]
    assert "needs the right to write to it and to make files in" in error


# ---------------------------------------------------------------------- the broker


def test_a_broker_that_is_away(redis_url: str) -> None:
    app = make_app(redis_url, broker_url="redis://:s3cret@127.0.0.1:1/0")
    text = the_only(app, "error", "broker")
    assert "Start the broker, or set broker_url to its address" in text
    assert "s3cret" not in text


def test_a_broker_that_hangs(redis_url: str, start_redis: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_checks, "TIMEOUT_SECONDS", 0.2)
    server = start_redis()
    with server.paused():
        assert the_only(make_app(redis_url, broker_url=server.url()), "error", "broker")


def test_a_broker_that_can_not_save(redis_url: str, start_redis: Start) -> None:
    text = the_only(make_app(redis_url, broker_url=unsaved(start_redis).url()), "error", "broker")
    assert "MISCONF" in text
    assert "stop-writes-on-bgsave-error no" in text


@pytest.mark.parametrize("code", ["NOREPLICAS", "OOM", "READONLY"])
@pytest.mark.parametrize("apart", [True, False], ids=["broker apart", "broker in the store"])
def test_a_broker_that_refuses_messages(redis_url: str, start_redis: Start, code: str, apart: bool) -> None:
    make, remedy = REFUSALS[code]
    server = make(start_redis)
    items = found(make_app(redis_url if apart else server.url(), broker_url=server.url()), 2)
    assert items["broker"][0]["status"] == "ok"
    assert items["writes"][0]["status"] == ("ok" if apart else "error")
    assert items["messages"][0]["status"] == "error"
    assert code in items["messages"][0]["text"]
    assert remedy in items["messages"][0]["text"]
    assert not {key for key, _ in shapes(server) if "doctor" in key}


@pytest.mark.parametrize(
    ("rules", "check", "lacks"),
    [
        ("~* &* +@all -lpush", "messages", "the command lpush"),
        ("~celery-locks:* &* +@all", "messages", "a key"),
        ("~* resetchannels +@all", "consumers", "a channel"),
    ],
)
def test_the_rights_that_a_user_of_the_broker_lacks_are_named(
    redis_url: str, start_redis: Start, rules: str, check: str, lacks: str
) -> None:
    server = start_redis(users={"limited": f"on >secret {rules}"})
    app = make_app(redis_url, broker_url=server.url(user="limited", password="secret"))
    items = found(app, 2 if check == "messages" else 1)
    text = items[check][0]["text"]
    assert f"t lacks {lacks}" in text
    rights = re.search(r"ACL SETUSER \S+ (.*)", text)[1]  # type: ignore[index]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *rights.split())
    app = make_app(redis_url, broker_url=server.url(user="limited", password="secret"))
    items = found(app, 1)
    assert items["messages"][0]["status"] == "ok"
    assert "no worker answers" in items["consumers"][0]["text"]


def told_rights(app: Celery) -> list[str]:
    """Return the rights that doctor names to a user of the broker who lacks one."""
    texts = [item["text"] for items in found(app, 2).values() for item in items]
    return next(match[1] for text in texts if (match := re.search(r"ACL SETUSER \S+ (.*)", text))).split()


#: What neither a worker nor one who publishes may do.
HARMFUL = ("FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "KEYS *", "SCRIPT FLUSH", "FUNCTION FLUSH", "CONFIG SET maxmemory 1")


@pytest.mark.slow
def test_a_worker_of_a_user_with_exactly_the_named_rights(redis_url: str, start_redis: Start) -> None:
    server = start_redis(users={"limited": "on >secret ~nothing +@all"})
    url = server.url(user="limited", password="secret")
    app = Celery("watched", broker=url, set_as_current=False)
    app.conf.update(locks_url=redis_url, result_backend="rpc://", task_routes={"short": {"queue": "shop"}})
    task = app.task(nothing, name="short", base=LockedTask, shared=False, lock_key="<key>")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *told_rights(app))
        client.acl_log_reset()
    settings = '{"result_backend": "rpc://"}'
    variables = {"WATCHED_URL": redis_url, "WATCHED_BROKER": url, "WATCHED_SETTINGS": settings}
    queues = ["celery", "shop"]
    with Worker(
        "tests.faces.telemetry_app", env=variables, queues=queues, arguments=["-E"], gossip=True, timeout=90
    ) as worker:
        task.apply_async(("k",), countdown=1).get(timeout=SOON)
        assert "a worker consumes shop" in found(app)["consumers"][0]["text"]
        assert app.control.inspect(timeout=5).stats()
        assert "NOPERM" not in worker.logs()
        assert "no permissions" not in worker.logs()
    with server.client() as client:
        assert client.acl_log() == []
    with Redis.from_url(url) as limited:
        for command in HARMFUL:
            with pytest.raises(NoPermissionError):
                limited.execute_command(*command.split())


def test_a_queue_whose_name_is_a_pattern_of_keys(redis_url: str, start_redis: Start) -> None:
    server = start_redis(users={"limited": "on >secret ~nothing +@all"})
    url = server.url(user="limited", password="secret")
    app = make_app(redis_url, broker_url=url, task_queues=[Queue("mails[a]*")], task_default_queue="mails[a]*")
    rights = told_rights(app)
    assert "~mails\\[a\\]\\**" in rights
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *rights)
    assert found(app, 1)["messages"][0]["status"] == "ok"


@pytest.mark.parametrize(
    "url",
    [
        "redis://us/er:hunter2@127.0.0.1:1/0",
        "redis://u:hun#ter2@127.0.0.1:1/0",
        "redis://u:hunter;ter2@127.0.0.1:1/0",
        "amqp://u:[hunter2]@127.0.0.1:1//",
        "sentinel://:hun/ter2@127.0.0.1:1;sentinel://:hunter2@127.0.0.1:2",
        ["redis://127.0.0.1:1/0", "redis://:hun?ter2@127.0.0.1:1/0"],
    ],
)
def test_promise_21_no_part_of_a_password_in_a_malformed_broker_url_shows(redis_url: str, url: Any) -> None:
    app = make_app(redis_url, broker_url=url)
    shown = the_only(app, "error", "broker") + Run(app)("sweep", status=1).output
    assert "***@127.0.0.1" in shown
    assert "hun" not in shown
    assert "ter2" not in shown


def test_the_address_of_the_broker_is_shown_as_it_is_written(redis_url: str) -> None:
    assert found(make_app(redis_url, broker_url=redis_url), 1)["broker"][0]["text"] == f"reached at {redis_url}"
    several = f"redis://127.0.0.1:1/0;{redis_url}"
    assert "@" not in found(make_app(redis_url, broker_url=several), 1)["broker"][0]["text"]


BROKEN = {
    "foo://u:s3cret@localhost": ("No such transport: foo. ", "Install the package that the transport foo"),
    "confluentkafka://u:s3cret@localhost": ("", "Install the package that the transport confluentkafka"),
    "sqs://u:s3cret@": ("", "Install the package that the transport sqs"),
    "redis://:s3cret@127.0.0.1:1/0?x=y": ("unexpected keyword argument 'x'", "Fix broker_url"),
    "redis://:s3cret@127.0.0.1:port/0": ("can't be read: write it as user:password@host:port", "Fix broker_url"),
    "redis://u:s3cret": ("broker_url, redis://u:***, can't be read", "Fix broker_url"),
    "redis://u%3As3cret%40127.0.0.1:1/0": ("broker_url, redis://u%3A***, can't be read", ""),
    "redis://u:s3cret\uff20127.0.0.1": ("broker_url, redis://u:***, can't be read", "Fix broker_url"),
    "amqp://u:s3cret": ("broker_url, amqp://u:***, can't be read", "Fix broker_url"),
    "redis://127.0.0.1:1/0?client_name=a@b": ("unexpected keyword argument 'client_name'", "Fix broker_url"),
}


@pytest.mark.parametrize("url", BROKEN)
def test_a_broker_url_that_can_not_be_used(redis_url: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("boto3", "botocore", "confluent_kafka"):
        if module not in sys.modules:
            monkeypatch.setitem(sys.modules, module, None)  # importing it is an ImportError
    why, remedy = BROKEN[url]
    app = make_app(redis_url, broker_url=url)
    text = the_only(app, "error", "broker")
    assert why in text
    assert remedy in text
    assert "visibility timeout" in found(app, 2)
    output = Run(app)("doctor", "--patience", "0", status=2).output
    assert "s3cret" not in output + text
    assert "Traceback" not in output


def test_a_check_that_fails_hides_no_other(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of redis://:s3cret@h/0")

    monkeypatch.setattr(RedisStore, "checks", fail)
    text = the_only(make_app(redis_url), "error", "store settings")
    assert text.startswith("the check failed: ZeroDivisionError: of redis://:***@h/0. ")
    items = found(make_app(redis_url), 2)
    assert {"writes", "waiters", "broker", "messages", "consumers", "visibility timeout"} <= set(items)
    monkeypatch.undo()
    monkeypatch.setattr(RedisStore, "try_writes", fail)
    assert "ZeroDivisionError" in the_only(make_app(redis_url), "error", "writes")


def test_tasks_that_can_not_be_loaded(redis_url: str) -> None:
    app = make_app(redis_url, imports=["no_such_module"])
    assert "No module named 'no_such_module'" in the_only(app, "error", "settings")
    items = found(app, 2)
    for check in ("consumers", "visibility timeout"):
        assert items[check][0]["text"] == "not known: the tasks can't be loaded"


def test_what_a_user_may_not_look_at_is_not_known(start_redis: Start) -> None:
    server = start_redis(users={"limited": "on >secret ~* &* +@all -info -config"})
    url = server.url(user="limited", password="secret")
    items = found(make_app(url, locks_on_contention="park"))
    for check in ("version", "eviction", "persistence"):
        assert items[check][0]["status"] == "ok"
        assert items[check][0]["text"] == "not known: this user may not run INFO"


def test_a_broker_of_files(redis_url: str, tmp_path: Path) -> None:
    options = {f"data_folder_{way}": str(tmp_path / "data") for way in ("in", "out")}
    options["control_folder"] = str(tmp_path / "control")
    (tmp_path / "data").mkdir()
    app = make_app(redis_url, broker_url="filesystem://", broker_transport_options=options)
    items = found(app)
    assert items["messages"][0]["text"] == "the broker accepted a message, which was deleted"
    assert items["consumers"][0]["text"].startswith("not known")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    (tmp_path / "sent").mkdir()
    options["data_folder_out"] = str(tmp_path / "sent")
    app = make_app(redis_url, broker_url="filesystem://", broker_transport_options=options)
    assert found(app)["messages"][0]["text"].startswith("not tried")


def test_a_broker_on_which_a_try_would_leave_something(redis_url: str, tmp_path: Path) -> None:
    items = found(make_app(redis_url, broker_url=f"sqla+sqlite:///{tmp_path}/broker.db"))
    assert items["messages"][0]["text"].startswith("not tried")
    assert items["consumers"][0]["text"].startswith("not known")


# ---------------------------------------------------------------------- consumers


def test_no_worker(redis_url: str, other_redis_url: str) -> None:
    app = make_app(redis_url, broker_url=other_redis_url, task_routes={"shop.sync": {"queue": "shop"}})
    text = the_only(app, "warning", "consumers")
    assert "no worker answers" in text
    assert re.search(r"celery -A … worker -Q \S*shop", text)


def test_workers_that_can_not_be_asked(redis_url: str, other_redis_url: str) -> None:
    app = make_app(redis_url, broker_url=other_redis_url, worker_enable_remote_control=False)
    assert "worker_enable_remote_control is off" in found(app)["consumers"][0]["text"]


def test_a_route_that_can_not_be_known(redis_url: str, other_redis_url: str) -> None:
    def router(name: str, args: Any, *more: Any, **options: Any) -> dict[str, str]:
        return {"queue": args[0]}

    app = make_app(redis_url, broker_url=other_redis_url, task_routes=(router,))
    text = the_only(app, "warning", "consumers")
    assert re.match(r"the queue of shop.sync(\S* \(and \d+ more\))? is not known", text)
    app.task(nothing, name="shop.other", base=LockedTask, shared=False, lock_key="<key>")
    assert re.search(r"the queue of \S+ \(and \d+ more\) is not known", the_only(app, "warning", "consumers"))


@pytest.mark.slow
def test_a_broadcast_is_not_known(redis_url: str, other_redis_url: str) -> None:
    """Each worker has a queue of its own there, with a name that no other process knows."""
    queues = (Queue("celery"), Broadcast("news"), Broadcast("fixed", queue="fixed"))
    routes = {"told": {"queue": "news"}, "fix": {"queue": "fixed"}}
    app = Celery("watched", broker=other_redis_url, set_as_current=False)
    app.conf.update(locks_url=redis_url, task_routes=routes, task_queues=queues)
    options = {"base": LockedTask, "shared": False, "lock_key": "<key>"}
    for name in ("told", "usual"):
        app.task(nothing, name=name, **options)
    variables = {"WATCHED_URL": redis_url, "WATCHED_BROKER": other_redis_url, "WATCHED_SETTINGS": "{}"}
    with Worker("tests.faces.telemetry_app", env=variables, concurrency=1, queues=["celery"], timeout=90):
        items = found(app)["consumers"]
        assert [item["text"].partition(" for which")[0] for item in items] == [
            "not known: told is routed to the broadcast news,",
            "a worker consumes celery",
        ]
        app.task(nothing, name="fix", **options)
        text = the_only(app, "warning", "consumers")
        assert text.endswith("celery -A … worker -Q fixed")
    assert "bcast" not in str(found(app, 1))


@pytest.mark.slow
def test_parking_is_suggested_where_retries_pile_up(redis_url: str, other_redis_url: str) -> None:
    variables = {"WATCHED_URL": redis_url, "WATCHED_BROKER": other_redis_url, "WATCHED_SETTINGS": "{}"}
    app = Celery("watched", broker=other_redis_url, set_as_current=False)
    app.conf.update(locks_url=redis_url)
    task = app.task(nothing, name="retries_late", base=LockedTask, shared=False, lock_key="<key>")
    with (
        Worker("tests.faces.telemetry_app", env=variables, concurrency=1, timeout=90),
        Locks.from_app(app).lock("retried", ttl=90),
    ):
        assert "retries" not in found(app)
        for _ in range(60):
            task.delay("retried")
        text = eventually(lambda: the_only(app, "warning", "retries"), SOON)
    assert re.match(r"\d+ messages of retries_late wait to be sent again", text)
    assert 'With lock_on_contention="park", retries_late waits in line' in text


@pytest.mark.slow
def test_each_queue_wants_a_worker(redis_url: str, other_redis_url: str) -> None:
    """The worker of another queue, and that of the right one, whether a route, the task or the default names it."""
    variables = {"WATCHED_URL": redis_url, "WATCHED_BROKER": other_redis_url, "WATCHED_SETTINGS": "{}"}
    routes = {"routed": {"queue": "shop"}}
    app = Celery("watched", broker=other_redis_url, set_as_current=False)
    app.conf.update(locks_url=redis_url, task_routes=routes)
    options = {"base": LockedTask, "shared": False, "lock_key": "<key>"}
    app.task(nothing, name="routed", **options)
    app.task(nothing, name="queued", queue="urgent", **options)
    with Worker("tests.faces.telemetry_app", env=variables, concurrency=1, queues=["celery", "shop"], timeout=90):
        text = the_only(app, "warning", "consumers")
        assert "consumes the queue urgent, to which queued is routed" in text
        assert text.endswith("celery -A … worker -Q urgent")
    queues = ["celery", "shop", "urgent"]
    with Worker("tests.faces.telemetry_app", env=variables, concurrency=1, queues=queues, timeout=90):
        assert "a worker consumes" in found(app)["consumers"][0]["text"]
