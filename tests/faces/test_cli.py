"""``celery locks``: each command on a real app and a real store; some as users run them, in a process of their own."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
import redis
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_locks import Locks
from celery_locks._runtime.process import host_and_pid
from celery_locks.cli import locks as locks_group
from celery_locks.cli.escapes import printable, unescaped
from celery_locks.stores import schema_sql
from tests.support.celery_worker import ROOT, Worker
from tests.support.cli import Run, make_app
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

SOON = 60.0
#: Each `celery` command loads all that is installed for it, Flower too: on a busy machine that takes its time.
pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("no_shared_tasks")]
COMMANDS = sorted(locks_group.list_commands(click.Context(locks_group)))


@pytest.fixture
def locks(redis_url: str) -> Locks:
    return Locks(redis_url)


@pytest.fixture
def run(redis_url: str) -> Run:
    return Run(make_app(redis_url))


def write_app(folder: Path) -> None:
    (folder / "proj.py").write_text(
        "import os\n"
        "from celery import Celery\n"
        "from celery_locks import LockedTask\n"
        "app = Celery('proj', broker=os.environ['BROKER'])\n"
        "app.conf.locks_url = os.environ['LOCKS']\n"
        "@app.task(base=LockedTask, name='shop.sync', lock_key='<key>', lock_on_contention='park')\n"
        "def sync(key): ...\n"
    )


def process(*args: str, url: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """What users type, with an app of their own."""
    write_app(folder)
    environment = {**os.environ, "BROKER": url, "LOCKS": url, "COLUMNS": "200", **env}
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "proj", "locks", *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


# ---------------------------------------------------------------------- list, show


def test_a_table_of_what_is_held(run: Run, locks: Locks) -> None:
    assert run("list").output == "Nothing is held or waited for.\n"
    lease = locks.lock("user:7", ttl=60, owner="nightly import").acquire()
    header, row = run("list").output.splitlines()
    assert header.split() == ["KEY", "HELD", "BY", "FOR", "LEFT", "PERMITS", "WAITING", "FENCE"]
    assert row.split("  ")[:2] == ["user:7", "nightly import"]
    assert row.split()[-3:] == ["1/1", "0", str(lease.fencing_token)]
    assert lease.token not in run("list").output + run("list", "--json").output + run("show", "user:7").output


def test_filters(run: Run, locks: Locks) -> None:
    locks.lock("a:1", owner="shop.sync[one] on web1").acquire()
    locks.lock("a:2", owner="import").acquire()
    locks.lock("b:1", owner="import").acquire()

    def listed(*args: str) -> list[str]:
        return [item["key"] for item in json.loads(run("list", "--json", *args).output)["locks"]]

    assert listed() == ["a:1", "a:2", "b:1"]
    assert listed("--prefix", "a:") == ["a:1", "a:2"]
    assert listed("--task", "shop.sync") == ["a:1"]
    assert listed("--owner", "web1") == ["a:1"]
    assert listed("--owner", "import", "--prefix", "b") == ["b:1"]
    assert listed("--longer", "3600") == []
    assert listed("--longer", "0") == ["a:1", "a:2", "b:1"]
    assert listed("--waiting") == []
    ticket = locks.store.acquire(locks.lock("a:2")._new_claim(), 60)  # refused, and in line
    assert ticket is not None
    assert listed("--waiting") == ["a:2"]


@pytest.mark.parametrize("filters", [(), ("--owner", "import")])
def test_pages(run: Run, locks: Locks, filters: tuple[str, ...]) -> None:
    for number in range(7):
        locks.lock(f"k{number}", owner="import").acquire()
    seen, after, pages = [], None, 0
    while pages == 0 or after is not None:
        args = ("--after", after) if after else ()
        page = json.loads(run("list", "--json", "--count", "3", *filters, *args).output)
        seen += [item["key"] for item in page["locks"]]
        after, pages = page["next"], pages + 1
    assert seen == [f"k{number}" for number in range(7)]
    assert pages == 3
    assert "There are more: --after k2" in run("list", "--count", "3", *filters).stderr


def test_json_of_a_task(run: Run, locks: Locks) -> None:
    lease = locks.lock("user:7", ttl=60, owner="shop.sync[id-1] on celery@web1").acquire()
    [item] = json.loads(run("list", "--json").output)["locks"]
    [holder] = item.pop("holders")
    assert item == {"store": "default", "key": "user:7", "part": "", "permits": 1, "limit": 1, "waiting": 0}
    assert (holder["task"], holder["task_id"], holder["fencing_token"]) == ("shop.sync", "id-1", lease.fencing_token)
    assert holder["owner"] == lease.owner
    assert 0 <= holder["held_for"] < 60 - holder["expires_in"] + 1 < 61
    assert json.loads(run("show", "user:7", "--json").output)["holders"][0]["task_id"] == "id-1"


def test_the_lease_of_a_call_is_a_part_of_its_key(run: Run, locks: Locks) -> None:
    """As ``until_and_while_executing`` takes it: apart from the run's."""
    lock = locks.lock("user:7", owner="shop.sync[id-1] called by web1:7")
    lock._name = locks._space.name("user:7", "call")
    lease = lock.acquire()
    header, row = run("list").output.splitlines()
    assert header.split()[:2] == ["KEY", "PART"]
    assert row.split()[:2] == ["user:7", "call"]
    [item] = json.loads(run("list", "--json").output)["locks"]
    assert (item["key"], item["part"], item["holders"][0]["state"]) == ("user:7", "call", "called")
    assert "user:7 (part call)," in run("stats").output
    assert run("show", "user:7").output.splitlines() == [
        "user:7: not held, 0 waiting",
        "Its part call is held, too: show it by --part call",
    ]
    assert json.loads(run("show", "user:7", "--json").output)["parts"] == ["call"]
    assert run("show", "user:7", "--part", "call").output.startswith("user:7 (part call): 1 of 1 permits are held")
    refused = run("release", "user:7", "--yes", status=1).output
    assert "user:7 is not held; its part call is held: give --part call" in refused
    assert "is not a part of a key" in run("release", "user:7", "--part", "calls", "--yes", status=1).output
    assert run("release", "user:7", "--part", "call", "--yes").output.startswith("Released user:7 (part call)")
    assert lease.release() is False


def test_one_key(run: Run, locks: Locks) -> None:
    smtp = locks.semaphore("smtp", limit=5)
    first, second = smtp.acquire(permits=2), smtp.acquire()
    output = run("show", "smtp").output
    assert output.startswith("smtp: 3 of 5 permits are held, 0 waiting\n")
    rows = [line.split() for line in output.splitlines()[2:]]
    assert [row[-2:] for row in rows] == [["2", str(first.fencing_token)], ["1", str(second.fencing_token)]]
    assert run("show", "free").output == "free: not held, 0 waiting\n"


def test_promise_25_a_key_gives_the_terminal_no_commands(run: Run, locks: Locks) -> None:
    locks.lock("\x1b[2Jgone\n\u202eb [red]", owner="\x1b]0;title\x07").acquire()
    output = run("list").output + run("show", "\x1b[2Jgone\n\u202eb [red]").output
    assert not set(output) & {"\x1b", "\x07", "\u202e"}
    assert "\\x1b[2Jgone\\n\\u202eb [red]" in output


# ---------------------------------------------------------------------- release, wait


def test_release_asks_and_names_the_holder(run: Run, locks: Locks) -> None:
    lease = locks.lock("user:7", owner="nightly import").acquire()
    assert "Release user:7, which is held by nightly import" in run("release", "user:7", answer="n\n", status=1).output
    assert lease.held
    assert locks.lock("user:7").locked()
    output = run("release", "user:7", answer="y\n").output
    assert "Released user:7, which was held by nightly import" in output
    assert not locks.lock("user:7").locked()


def test_release_without_asking(run: Run, locks: Locks) -> None:
    assert "user:7 is not held" in run("release", "user:7", "--yes", status=1).stderr
    locks.lock("user:7", owner="nightly import").acquire()
    assert run("release", "user:7", "--yes").output.startswith("Released user:7, which was held by nightly import")


def test_release_ends_only_the_lease_it_asked_about(run: Run, locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key changes hands while the question stands."""
    lease = locks.lock("user:7", owner="the first").acquire()

    def answer(*args: Any, **kwargs: Any) -> bool:
        lease.release()
        locks.lock("user:7", owner="the second").acquire()
        return True

    monkeypatch.setattr(click, "confirm", answer)
    refused = run("release", "user:7", status=1).stderr
    assert "those leases of user:7 had ended: nothing was released. It is held by the second" in refused
    assert [holder.owner for holder in locks.lock("user:7").holders()] == ["the second"]


def test_more_holders_than_a_look_names(run: Run, locks: Locks) -> None:
    """A list names 20 holders of each key, a look at one key 100."""
    smtp = [locks.semaphore("smtp", limit=200, owner=f"p{number}.") for number in range(130)]
    leases = [each.acquire() for each in smtp]
    assert "p0. and at least 19 more" in run("list").output
    assert [item["key"] for item in json.loads(run("list", "--owner", "p99.", "--json").output)["locks"]] == ["smtp"]
    output = run("release", "smtp", "--yes").output
    assert "p0. (for" in output
    assert "and 120 more." in output
    assert not any(lease.release() for lease in leases)


def test_release_reports_who_keeps_the_key(run: Run, locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    smtp = locks.semaphore("smtp", limit=2, owner="before")
    smtp.acquire()
    later = locks.semaphore("smtp", limit=2, owner="later")
    monkeypatch.setattr(click, "confirm", lambda *args, **kwargs: later.acquire())
    assert run("release", "smtp").output.splitlines()[1].startswith("It is held by later")


def test_release_ends_all_leases_and_serves_the_waiter(run: Run, locks: Locks) -> None:
    smtp = locks.semaphore("smtp", limit=2)
    smtp.acquire(), smtp.acquire()
    had: list[Any] = []
    waiter = threading.Thread(target=lambda: had.append(smtp.acquire(timeout=SOON)))
    waiter.start()
    eventually(lambda: locks.info("smtp").waiting == 1, SOON)
    output = run("release", "smtp", "--yes").output
    assert output.splitlines()[0].count(host_and_pid()) == 2
    waiter.join(SOON)
    assert smtp.available() == 1
    assert had[0].held


def test_wait_ends_when_the_key_is_free(run: Run, locks: Locks) -> None:
    assert run("wait", "deploy").output == "deploy is free.\n"
    lease = locks.lock("deploy", owner="the other").acquire()
    refused = run("wait", "deploy", "--timeout", "0.1", status=1)
    assert "deploy was not free within 0.1 s: it is held by the other" in refused.stderr
    ended: list[str] = []
    waiter = threading.Thread(target=lambda: ended.append(run("wait", "deploy").output))
    waiter.start()
    eventually(lambda: locks.info("deploy").waiting == 1, SOON)
    assert not ended
    lease.release()
    waiter.join(SOON)
    assert ended == ["deploy is free.\n"]
    assert not locks.lock("deploy").locked()


# ---------------------------------------------------------------------- watch, stats, sweep


def test_watch_in_a_pipe(run: Run, locks: Locks) -> None:
    locks.lock("user:7", owner="nightly import").acquire()
    output = run("watch", "--times", "2", "--interval", "0.1").output
    assert output.count("1 keys, 1 leases, 0 waiting; longest user:7") == 2
    assert output.count("nightly import") == 2


def test_watch_goes_on_while_the_store_is_away(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    run = Run(make_app(server.url()))
    server.stop()
    output = run("watch", "--times", "2", "--interval", "0.1").output
    assert output.count("failed: ConnectionError") == 2


def test_stats(run: Run, locks: Locks) -> None:
    locks.lock("user:7", ttl=5).acquire()
    locks.semaphore("smtp", limit=2, ttl=60).acquire()
    output = run("stats").output
    assert "keys held or waited for:  2\n" in output
    assert "held for longest:         user:7" in output
    data = json.loads(run("stats", "--json", "--near", "20").output)
    assert (data["locks"], data["holders"], data["waiting"], data["oldest"]) == (2, 2, 0, "user:7")
    assert data["near_expiry"] == 1


def test_sweep_without_parked_tasks(run: Run) -> None:
    assert run("sweep").output == "Swept. In line: 0 before, 0 now.\n"


# ---------------------------------------------------------------------- sql


@pytest.mark.parametrize("url", ["postgresql://me:s3cret@localhost/shop", "mysql://me:s3cret@localhost/shop"])
def test_the_tables_of_a_database(url: str) -> None:
    """That a database takes them is shown in tests/stores/test_sql.py."""
    of_app, given = Run(make_app(url))("sql").output, Run(make_app(None))("sql", url).output
    assert of_app == given == schema_sql(url).rstrip() + "\n"
    assert "CREATE TABLE IF NOT EXISTS celery_locks_holder" in given
    assert "s3cret" not in given


def test_a_store_without_tables(run: Run) -> None:
    assert "stores of postgresql:// and mysql:// do" in run("sql", status=1).stderr


# ---------------------------------------------------------------------- as users run it


@pytest.mark.slow
def test_a_process_prints_a_table_and_json(redis_url: str, locks: Locks, tmp_path: Path) -> None:
    locks.lock("user:7", owner=host_and_pid()).acquire()
    done = process("list", url=redis_url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == ["user:7", host_and_pid()]
    assert json.loads(process("stats", "--json", url=redis_url, folder=tmp_path).stdout)["locks"] == 1


@pytest.mark.slow
def test_a_process_prints_an_error_in_one_line(tmp_path: Path) -> None:
    done = process("list", url="redis://:s3cret@127.0.0.1:1/0", folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: the lock store redis://:***@127.0.0.1:1/0 failed: ConnectionError")


@pytest.mark.slow
def test_the_shell_completes_commands_and_keys(redis_url: str, locks: Locks, tmp_path: Path) -> None:
    for key in ("user:7", "user:8", "order:1"):
        locks.lock(key).acquire()

    def offered(words: str) -> str:
        count = len(words.split(" ")) - 1
        completion = {"_CELERY_COMPLETE": "zsh_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        return subprocess.run(
            [Path(sys.executable).with_name("celery")],
            cwd=tmp_path,
            env={**os.environ, "BROKER": redis_url, "LOCKS": redis_url, "PYTHONPATH": str(tmp_path), **completion},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        ).stdout

    write_app(tmp_path)
    assert "doctor" in offered("celery -A proj locks do")
    keys = offered("celery -A proj locks release us")
    assert "user:7" in keys.replace("\\:", ":")
    assert "order" not in keys


# ---------------------------------------------------------------------- any key

ODD = ["a\x00b", "a\nb", r"a\nb", "a\\", "\x1b]0;x\x07", "\x9b31m", "\x7f", "\u202egnp", "it's", "--yes", "\U000e0001"]


@pytest.mark.parametrize("key", ODD)
def test_promise_46_every_key_is_shown_and_released_as_it_is_listed(run: Run, locks: Locks, key: str) -> None:
    locks.lock(key, owner="an \x1b[31mimport\n").acquire()
    listed = run("list").output.splitlines()[1].split("  ")[0]
    assert json.loads(run("show", "--json", "--escaped", "--", listed).output)["key"] == key
    shown = [run(*args).output for args in (("list",), ("list", "--json"), ("stats",), ("stats", "--json"))]
    shown.append(run("watch", "--times", "1").output)
    shown.append(run("wait", "--timeout", "0", "--escaped", "--", listed, status=1).output)
    shown.append(run("release", "--escaped", "--", listed, answer="y\n").output)
    assert not locks.lock(key).holders()
    shown.append(run("release", "--escaped", "--", listed, status=1).output)
    assert "".join(shown).replace("\n", "").isprintable(), shown


def test_no_two_keys_are_printed_alike() -> None:
    assert len({printable(key) for key in ODD}) == len(ODD)


@given(st.text())
def test_what_is_printed_is_read_as_the_same_key(key: str) -> None:
    assert printable(key).isprintable()
    assert unescaped(printable(key)) == key


def test_a_wrong_escape_states_how_to_write_it(run: Run) -> None:
    assert r"\q is not an escape: write \\ for a backslash" in run("show", "--escaped", r"a\q", status=2).output
    assert r"\ is not an escape" in run("list", "--escaped", "--after", "a\\", status=2).output


def test_promise_21_usage_errors_have_no_passwords(run: Run) -> None:
    assert "hunter2" not in run("sql", "x", "postgresql://us/er:hunter2@h/d", status=2).output


@pytest.mark.parametrize("args", [("show", "k", "\x1b[31m"), ("show", "k", "--\x1b[31m"), ("\x1b[31mshow",)])
def test_usage_errors_have_no_control_characters(run: Run, args: tuple[str, ...]) -> None:
    shown = run(*args, status=2).output
    assert r"\x1b" in shown
    assert shown.replace("\n", "").isprintable()


def test_the_next_page_of_odd_keys(run: Run, locks: Locks) -> None:
    """What it prints is pasted into a shell: see also test_completion."""
    for key in ODD:
        locks.lock(key).acquire()
    seen, args = list[str](), list[str]()
    while True:
        seen += [item["key"] for item in json.loads(run("list", "--count", "1", "--json", *args).output)["locks"]]
        more = run("list", "--count", "1", *args).stderr
        if not more:
            break
        args = shlex.split(more.removeprefix("There are more: "))
    assert sorted(seen) == sorted(ODD)


def test_a_list_without_a_match_names_what_there_is(run: Run, locks: Locks, monkeypatch: pytest.MonkeyPatch) -> None:
    filters = [
        ("--owner", "x"),
        ("--task", "x"),
        ("--longer", "9"),
        ("--waiting",),
        ("--prefix", "x"),
        ("--after", "x"),
    ]
    for args in [(), *filters]:
        assert run("list", *args).output == "Nothing is held or waited for.\n"
    locks.lock("k1", owner="import").acquire()
    for args in [*filters, ("--owner", "import", "--prefix", "x")]:
        assert run("list", *args).output == "No key matches; 1 key is held or waited for.\n"
        assert json.loads(run("list", "--json", *args).output) == {"locks": [], "next": None}
    locks.lock("k2", owner="import").acquire()
    assert run("list", "--owner", "x").output == "No key matches; 2 keys are held or waited for.\n"
    assert "; none begins with x\n" in run("watch", "--prefix", "x", "--times", "1").output
    monkeypatch.setattr("celery_locks.cli.list_command.MOST_PAGES", 1)
    monkeypatch.setattr("celery_locks.cli.list_command.MOST_ON_A_PAGE", 1)
    shown = run("list", "--owner", "x")
    assert shown.stdout == "No key matches among those searched so far.\n"
    assert shown.stderr == "There are more: --after k1\n"


# ---------------------------------------------------------------------- help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name: str, run: Run) -> None:
    text = run(name, "--help").output
    assert f"celery -A proj locks {name}" in text.split("Example")[1]


def test_no_app_and_no_store_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_LOCKS_URL", raising=False)
    result = Run(Celery(broker="amqp://", set_as_current=False))("list", status=1)
    assert result.stderr.startswith("Error: no lock store is set: set locks_url")
    assert len(result.stderr.splitlines()) == 1


def test_a_typo_is_answered(run: Run) -> None:
    assert "relase" in run("relase", "x", status=2).output
    assert "release" in run("relase", "x", status=2).output


def test_what_every_celery_command_loads_is_light() -> None:
    program = (
        "import celery.bin.celery, sys\n"
        "print(*[name for name in sys.modules if name.startswith(('celery_locks', 'rich'))])"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    names = set(loaded.stdout.split())
    assert "celery_locks.cli" in names
    assert not {name for name in names if name.startswith(("celery_locks.tasks", "celery_locks.telemetry", "rich"))}


# ---------------------------------------------------------------------- with a worker, in a terminal


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True], ids=["broker in the store", "broker apart"])
def test_the_tickets_of_a_dead_worker_are_found_and_dispatched(
    redis_url: str, redis_server: RedisServer, start_redis: Callable[..., RedisServer], apart: bool
) -> None:
    """A task parks; its worker dies; the key comes free, and nobody is there to call the task."""
    broker = start_redis().url() if apart else redis_url
    variables = {"WATCHED_URL": redis_url, "WATCHED_BROKER": broker, "WATCHED_SETTINGS": "{}"}
    app = Celery("watched", broker=broker, backend=redis_url, set_as_current=False)
    app.conf.locks_url = redis_url
    locks, run = Locks(redis_url), Run(app)
    lease = locks.lock("k", ttl=60).acquire()
    with Worker("tests.faces.telemetry_app", env=variables, concurrency=1, timeout=90) as worker:
        result = app.send_task("parked", args=["k"])
        eventually(lambda: locks.info("k").waiting == 1, SOON)
        worker.kill()
    lease.release()
    assert "that no worker dispatches: k." in run("doctor", "--patience", "0.5", status=1).output
    assert run("sweep").output == "Swept. In line: 1 before, 0 now.\n"
    with redis.Redis.from_url(broker) as client:
        [message] = client.lrange("celery", 0, -1)
    assert json.loads(message)["headers"]["id"] == result.id
    assert run("sweep").output == "Swept. In line: 0 before, 0 now.\n"


def in_terminal(*args: str, url: str, folder: Path) -> tuple[int, str]:
    """The exit status of a command, and what it writes to a terminal."""
    terminal, theirs = pty.openpty()
    environment = {**os.environ, "BROKER": url, "LOCKS": url, "COLUMNS": "150", "TERM": "xterm"}
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"
    argv = [sys.executable, "-m", "celery", "-A", "proj", "locks", *args]
    running = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how Linux tells of the end
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    return running.wait(SOON), shown.decode()


@pytest.mark.slow
@pytest.mark.parametrize("rich", [True, False])
def test_watch_in_a_terminal(redis_url: str, locks: Locks, tmp_path: Path, rich: bool) -> None:
    """With a key that would be rich's markup; and where rich is not installed."""
    locks.lock("user:[red]7", owner="nightly import").acquire()
    write_app(tmp_path)
    if not rich:
        (tmp_path / "rich.py").write_text("raise ImportError('no rich here')")
    status, shown = in_terminal("watch", "--times", "2", "--interval", "0.1", url=redis_url, folder=tmp_path)
    assert status == 0
    assert "user:[red]7" in shown
    assert "1 keys, 1 leases, 0 waiting" in shown
    assert ("\x1b[" in shown) is rich, "it is live"


@pytest.mark.parametrize("args", [("list", "--longer"), ("stats", "--near"), ("watch", "--times", "1", "--interval")])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_seconds_are_finite(run: Run, args: tuple[str, ...], value: str) -> None:
    assert "Invalid value" in run(*args, value, status=2).stderr
