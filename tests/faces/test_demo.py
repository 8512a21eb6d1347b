"""The demo, run as a user runs it; and the parts by which it judges, since a demo that can't fail shows nothing."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from kombu import Connection
from rich.console import Console

from celery_locks.testing.local import processes
from example_project.demo import processes as demo_processes
from example_project.demo.interrupt import Interrupted
from example_project.demo.processes import DemoError, Stage
from example_project.demo.screens import LiveScreen, summary
from example_project.demo.state import State
from example_project.demo.verdict import Verdict, most_overlapping, tokens_grow
from example_project.demo.watch import Holding
from example_project.shop import files_broker
from example_project.shop.journal import Run
from tests.support import records
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
MARK = "CELERY_LOCKS_TEST_MARK"
#: What makes a worker die before it has begun.
SICK = """
import os, sys
if "example_project.demo.worker" in sys.orig_argv:
    print("no strength today", flush=True)
    os._exit(3)
"""
#: Seconds within which the demo ends, on a machine that has much else to do.
PATIENCE = 100
#: Seconds between two looks at the demo: each reads the variables of all processes of the machine.
LOOK_SECONDS = 0.25


class Demo:
    """A demo that runs, all of whose processes can be told by a variable, and whose files lie in a folder of the test.

    Args:
        arguments: Of the command line.
        environment: Variables beside those of the tests.
    """

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = processes.make_folder()
        self.pids: set[int] = set()
        self._records_before = records.shared()
        self._mark = uuid.uuid4().hex
        self._output = processes.make_folder() / "output"
        paths = [(environment or {}).get("PYTHONPATH", ""), str(ROOT), os.environ.get("PYTHONPATH", "")]
        own = {MARK: self._mark, "TMPDIR": str(self.folder), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with self._output.open("wb") as output:
            self._process = processes.start(
                [sys.executable, "-m", "example_project", "--plain", *arguments],
                output=output,
                env={**os.environ, **(environment or {}), **own},
                cwd=ROOT,
            )

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self.text or not self._runs(), 60, f"it never said {text!r}", LOOK_SECONDS)
        assert text in self.text, self.text

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def exit_status(self) -> int:
        eventually(lambda: not self._runs(), PATIENCE, "the demo does not end", LOOK_SECONDS)
        return self._process.wait()

    def summary(self) -> dict[str, str]:
        """The lines of the closing table, by what they are about."""
        return summary_of(self.text)

    def processes(self) -> list[psutil.Process]:
        """All that it has started and that still runs, itself too."""
        found = [process for process in psutil.process_iter() if self._is_mine(process)]
        self.pids |= {process.pid for process in found}
        return found

    def assert_nothing_is_left(self) -> None:
        # What it killed by SIGKILL may take a moment to be gone from the system's table.
        eventually(lambda: not self.processes(), 5, "processes are left behind")
        assert list(self.folder.iterdir()) == []
        assert records.left_by(self.pids, self._records_before) == []

    def close(self) -> None:
        processes.end(self._process)
        for process in self.processes():
            process.kill()
        processes.remove_folder(self.folder)
        processes.remove_folder(self._output.parent)

    def _runs(self) -> bool:
        self.processes()  # so that the ids of all are known
        return self._process.poll() is None

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark
        except psutil.Error:
            return False


@pytest.fixture
def run() -> Iterator[type[Demo]]:
    """Starts demos; closes them."""
    demos: list[Demo] = []

    class Closed(Demo):
        def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
            super().__init__(*arguments, environment=environment)
            demos.append(self)

    yield Closed
    for demo in demos:
        demo.close()


def summary_of(text: str) -> dict[str, str]:
    """The lines of the closing table in what a demo printed, by what they are about."""
    return dict(re.findall(r"^ (\w[\w, ]+?) {2,}(\S.*?) *$", text, re.MULTILINE))


def assert_promises_kept(demo: Demo, tasks: int) -> None:
    assert demo.exit_status() == 0, demo.text
    assert_text_shows_promises_kept(demo.text, tasks)


def assert_text_shows_promises_kept(text: str, tasks: int) -> None:
    summary = summary_of(text)
    assert summary["Tasks sent"] == summary["Tasks done"] == str(tasks)
    assert re.match(r"0 +as promised", summary["Tasks lost"])
    assert re.match(r"1 +as promised", summary["Most overlapping runs"])
    assert summary["Fencing tokens"].endswith("as promised")
    assert summary["Charged to accounts"].endswith("as promised")
    assert "BROKEN" not in text
    assert text.endswith("Every promise was kept.\n")


def assert_text_shows_a_take_over(text: str) -> None:
    summary = summary_of(text)
    killed = re.search(r"Killed (worker\d) \(SIGKILL\) while it held catalogue:\d", text)
    assert killed is not None
    assert f"worker3 starts in place of {killed[1]}" in text
    take_over = summary[f"Taken over from {killed[1]}"]
    assert re.match(r"catalogue:\d, by worker\d in \d+\.\d s +as promised", take_over)
    again = re.match(r"(\d+) of (\d+) +as promised", summary["Cut off, then run again"])
    assert again is not None
    assert int(again[1]) == int(again[2]) >= 1


# --- As a whole. A run takes ten seconds: those on Valkey are followed closely, SQLite has one for each way to end. ---


@pytest.mark.slow
def test_keeps_all_promises_though_a_worker_is_killed(run: type[Demo]) -> None:
    demo = run("--embedded", "valkey", "--tasks", "40")
    assert_promises_kept(demo, 40)
    assert_text_shows_a_take_over(demo.text)
    assert len(demo.pids) > 3 * 4, "three workers with four processes each were seen"
    demo.assert_nothing_is_left()


@pytest.mark.slow
def test_without_the_kill_sends_nothing_to_the_users_own_broker(run: type[Demo]) -> None:
    elsewhere = "redis://localhost:1/0"
    environment = {"CELERY_BROKER_URL": elsewhere, "CELERY_RESULT_BACKEND": elsewhere, "CELERY_LOCKS_URL": elsewhere}
    demo = run("--no-kill", "--tasks", "30", "--workers", "1", "--seed", "3", environment=environment)
    assert_promises_kept(demo, 30)
    assert "SIGKILL" not in demo.text
    assert "Taken over" not in demo.text


@pytest.mark.slow
def test_fails_without_locks(run: type[Demo]) -> None:
    demo = run("--no-locks", "--embedded", "valkey", "--tasks", "60")
    assert demo.exit_status() == 1, demo.text
    summary = demo.summary()
    assert summary["Tasks done"] == "60"
    assert re.match(r"([2-9]|\d\d) +BROKEN", summary["Most overlapping runs"])
    assert re.search(r"^BROKEN: \d+ tasks for \w+:\d ran at the same time\.$", demo.text, re.MULTILINE)
    assert re.search(r"^BROKEN: customers paid .* charges were overwritten\.$", demo.text, re.MULTILINE)
    demo.assert_nothing_is_left()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "moment", "number"),
    [
        ("--embedded valkey --tasks 200", "The shop runs on", signal.SIGINT),  # while the workers start
        ("--embedded valkey --tasks 200", "(SIGKILL)", signal.SIGTERM),  # with leases held and a worker dead
        ("--embedded sqlite --tasks 200", "of 200 tasks done", signal.SIGINT),
        ("--embedded sqlite --tasks 20 --workers 1 --no-kill", "stopping the workers", signal.SIGTERM),
    ],
)
def test_leaves_nothing_behind_when_it_is_interrupted(
    run: type[Demo], arguments: str, moment: str, number: signal.Signals
) -> None:
    demo = run(*arguments.split())
    demo.wait_for(moment)
    assert len(demo.processes()) >= 1
    demo.send(number)
    assert demo.exit_status() == 128 + number
    demo.assert_nothing_is_left()
    assert f"Ended by {number.name}. All processes and files of the demo are gone." in demo.text
    assert "Traceback" not in demo.text


@pytest.mark.slow
def test_shows_the_log_of_a_worker_that_dies_at_its_start(run: type[Demo], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SICK)
    demo = run("--embedded", "valkey", environment={"PYTHONPATH": str(tmp_path)})
    assert demo.exit_status() == 1
    assert re.search(r"worker\d died. The end of its log:\n  \| no strength today", demo.text)
    assert "Traceback" not in demo.text
    demo.assert_nothing_is_left()


@pytest.mark.slow
def test_shows_the_log_of_a_worker_that_dies_in_mid_run(run: type[Demo]) -> None:
    demo = run("--embedded", "sqlite", "--no-kill", "--tasks", "200")
    demo.wait_for("of 200 tasks done")
    workers = [process for process in demo.processes() if "worker2@shop" in process.cmdline()]
    pids = {process.pid for process in workers}
    main = next(process for process in workers if process.ppid() not in pids)
    main.kill()
    assert demo.exit_status() == 1
    assert "worker2 died. The end of its log:" in demo.text
    demo.assert_nothing_is_left()


@pytest.mark.slow
def test_states_what_to_do_when_the_server_does_not_run(run: type[Demo]) -> None:
    demo = run("--embedded", "valkey", environment={"CELERY_LOCKS_DEMO_SERVER": "/nowhere/valkey-server"})
    assert demo.exit_status() == 1
    assert "/nowhere/valkey-server does not run" in demo.text
    demo.assert_nothing_is_left()


# --- How it judges ---


def a_run(began: float, ended: float | None, token: int | None = 1, worker: str = "worker1") -> Run:
    return Run("job", "sync", "customer:1", token, worker, 1, began, ended, None if ended is None else "done")


def test_runs_one_after_the_other_do_not_overlap() -> None:
    assert most_overlapping([a_run(1, 2), a_run(2, 3), a_run(3.5, 4)], {}) == 1


def test_runs_that_overlap_are_counted() -> None:
    assert most_overlapping([a_run(1, 4), a_run(2, 3), a_run(2.5, 5)], {}) == 3


def test_a_run_ends_with_its_worker() -> None:
    cut_off = a_run(1, None, worker="worker2")
    assert most_overlapping([cut_off, a_run(5, 6)], {"worker2": 4}) == 1
    assert most_overlapping([cut_off, a_run(3, 6)], {"worker2": 4}) == 2
    assert most_overlapping([cut_off, a_run(5, 6)], {}) == 2


@pytest.mark.parametrize(
    ("tokens", "grow"), [([], True), ([1, 2, 9], True), ([1, 1], False), ([2, 1], False), ([1, None], False)]
)
def test_fencing_tokens_have_to_grow(tokens: list[int | None], grow: bool) -> None:
    assert tokens_grow(a_run(number, number + 1, token) for number, token in enumerate(tokens)) is grow


# --- Its parts ---


KEYS = [f"{kind}:{number}" for kind in ("account", "catalogue", "customer") for number in (1, 2)]


def printed(output: str) -> str:
    """What a terminal shows of it, all frames of a live table one below the other."""
    frames = re.sub(r"\x1b\[1A", "\n", output)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", frames)


def live_table(width: int) -> str:
    """The live table, while a worker that was killed still holds one key."""
    output = io.StringIO()
    screen = LiveScreen(Console(file=output, force_terminal=True, width=width, height=30), lambda: 4.0)
    held = [
        Holding("catalogue:2", "rebuild_catalogue", "worker1", 7, held_for=12.25, left=2.5),
        Holding("customer:1", "sync_customer", "worker2", 7, held_for=1.25, left=1.5),
    ]
    screen.show(State(KEYS, 3.0, 50, sent=20, done=10, holdings=held, dead={"worker2"}))
    screen.say("Something happened.")
    screen.close()
    text = printed(output.getvalue())
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    shown = [line.split()[0] for line in text.splitlines() if ":" in line]
    assert shown == KEYS * (len(shown) // len(KEYS)), "a key can be mistaken for another"
    return text


def test_the_table_shows_who_holds_what() -> None:
    text = live_table(100)
    assert re.search(r"account:1 +free", text)
    assert re.search(r"customer:1 +sync_customer +worker2, killed +1\.2 s +█{12}░{12}  1\.5 s", text)
    assert "10 of 50 tasks done, 20 sent, 4 s" in text
    assert "4.0 s  Something happened." in text


@pytest.mark.parametrize(
    ("width", "columns", "row"),
    [
        (
            200,
            "key task worker held for lease left",
            r"sync_customer +worker2, killed +1\.2 s +█+░+  1\.5 s",
        ),
        (
            80,
            "key task worker held for lease left",
            r"sync_customer +worker2, killed +1\.2 s +█+░+  1\.5 s",
        ),
        (60, "key worker held for lease left", r"worker2, killed +1\.2 s +█+░+  1\.5 s"),
        (40, "key worker lease left", r"worker2, killed  1\.5 s"),
        (25, "key lease left", r"█+░+  1\.5 s"),
        (20, "key", ""),
    ],
)
def test_a_narrow_terminal_shows_fewer_columns_and_whole_keys(width: int, columns: str, row: str) -> None:
    text = live_table(width)
    assert columns in re.sub(" +", " ", text)
    assert re.search(f"^customer:1 *{row} *$", text, re.MULTILINE)


@pytest.mark.parametrize("width", [200, 110, 80, 60, 40])
def test_the_closing_summary_fits_the_terminal(width: int) -> None:
    verdict = Verdict()
    verdict.fact("Tasks sent", 5000)
    verdict.promise("Most overlapping runs", 3, False, "")
    verdict.promise("Taken over from worker2", "catalogue:1, by worker1 in 10.6 s", True, "")
    output = io.StringIO()
    Console(file=output, width=width).print(summary(verdict, width))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    said = re.sub(r"\W+", " ", output.getvalue())
    assert "Tasks sent 5000 Most overlapping runs 3 BROKEN" in said
    assert "Taken over from worker2 catalogue 1 by worker1 in 10 6 s as promised" in said
    assert sum(map(bool, map(str.strip, lines))) == 3 or width < 80, "a line for each"


@pytest.mark.slow
def test_a_terminal_of_80_columns_shows_how_all_promises_are_kept_on_sqlite(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))  # tcsetwinsize is new in Python 3.11
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    env |= {"TERM": "xterm-256color", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "example_project", "--embedded", "sqlite", "--tasks", "30"]
    process = processes.start(argv, output=theirs, env=env, cwd=ROOT)
    os.close(theirs)
    read = bytearray()
    try:
        with suppress(OSError):  # that is how Linux reports the end of a terminal
            while data := os.read(ours, 65536):
                read += data
        assert process.wait(PATIENCE) == 0
    finally:
        processes.end(process)
        os.close(ours)
    text = printed(read.decode())
    tables = re.findall(r"^key +task +worker +held for +lease left *\n((?:\S.*\n)+)", text, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        rows = [line.split()[0] for line in table.splitlines()]
        assert all(re.fullmatch(r"(account|catalogue|customer):\d", key) for key in rows), table
        assert len(set(rows)) == len(rows) > 5
        assert max(map(len, table.splitlines())) <= 80
    assert any(re.search(r"worker\d, killed +\d+\.\d s +█+░*  \d\.\d s", table) for table in tables)
    assert max(map(len, text[text.rindex("Tasks sent") :].splitlines())) <= 80
    assert_text_shows_promises_kept(text, 30)
    assert_text_shows_a_take_over(text)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def undeletable(folder: Path) -> Iterator[None]:
    """Within it, the folder can't be removed: it holds what even root can't delete, or what others can't."""
    folder.mkdir()
    (folder / "file").touch()
    if os.geteuid():
        folder.chmod(0o500)
    elif subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("this root may not mount")
    try:
        yield
    finally:
        if os.geteuid():
            folder.chmod(0o700)
        else:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("ending", [Interrupted(signal.SIGINT), DemoError("worker1 died"), None])
def test_it_never_reports_existing_files_as_gone(
    ending: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo_processes, "REMOVAL_SECONDS", 0.1)
    stage = Stage()
    with undeletable(stage.folder / "kept"), pytest.raises(DemoError) as raised:
        stage.__exit__(type(ending), ending, None)
    shutil.rmtree(stage.folder)
    said = f"{stage.folder} could not be removed: remove it by hand"
    assert str(raised.value) == (f"worker1 died\n{said}" if isinstance(ending, DemoError) else said)


def test_the_broker_of_files_puts_back_what_a_dead_reader_had(tmp_path: Path) -> None:
    files_broker.register()
    with Connection(f"files:///{tmp_path}/messages") as connection:
        queue = connection.SimpleQueue("work")
        for number in range(3):
            queue.put(number)
        first = queue.get(timeout=5)
        new, mine = tmp_path / "messages" / "new", tmp_path / "messages" / str(os.getpid())
        assert (len(list(new.iterdir())), len(list(mine.iterdir()))) == (2, 1)
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        shutil.move(new, tmp_path / "messages" / str(dead.pid))
        new.mkdir()
        rest = [queue.get(timeout=5) for _ in range(2)]
        assert [message.payload for message in (first, *rest)] == [0, 1, 2]
        for message in (first, *rest):
            message.ack()
        assert list(new.iterdir()) == list(mine.iterdir()) == []


def test_the_command_line_lists_its_commands() -> None:
    command = [sys.executable, "-m", "example_project", "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    for option in ("--embedded", "--tasks", "--workers", "--concurrency", "--no-kill", "--plain", "--seed"):
        assert option in text
