"""What proves a process dead, and what is done then: real processes, looked at by a reaper in this one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from celery import Celery

from celery_locks import Locks, StoreUnavailable
from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.liveness import Process, new_worker_folder
from celery_locks.tasks.worker.reaper import Reaper
from tests.support.celery_worker import ROOT
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


class Site:
    """A machine with holders and a reaper."""

    def __init__(self, url: str, folder: Path, stack: ExitStack) -> None:
        self.url, self.folder = url, folder
        self.locks = Locks(url)
        self.life = new_worker_folder(url, str(folder)).publish()
        self.reaper = Reaper(Celery(broker=url), {"default": self.locks.store}, self.life)
        self._stack = stack

    def start(self, key: str, mode: str = "holds", *before: str) -> int:
        """Starts a holder; returns its process id as it sees it."""
        argv = [*before, sys.executable, "-m", "tests.tasks.holder", self.url, str(self.folder), key, mode]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, cwd=ROOT, start_new_session=True)
        self._stack.callback(self._end, self.process)
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def held_after_a_look(self, key: str) -> bool:
        self.reaper.check()
        return bool(self.locks.lock(key).locked())

    def freed(self, key: str) -> None:
        eventually(lambda: not self.held_after_a_look(key), 20)
        assert eventually(
            lambda: not self.life.others_of_site(), message="nothing of the dead is left"
        )  # their folders too


@pytest.fixture
def site(redis_url: str, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(redis_url, tmp_path, stack)


@pytest.mark.parametrize("mode", ["holds", "main_thread_ends", "closes_all", "child_of_the_dead", "forks"])
def test_a_living_process_keeps_its_lease_and_a_dead_one_does_not(site: Site, key: str, mode: str) -> None:
    pid = site.start(key, mode)
    for _ in range(3):
        assert site.held_after_a_look(key)
    os.kill(pid, signal.SIGKILL)
    site.process.poll()
    site.freed(key)


def test_a_zombie_is_dead(site: Site, key: str) -> None:
    os.kill(site.start(key), signal.SIGKILL)  # and nobody waits for it
    site.freed(key)
    assert site.process.returncode is None


def test_the_dead_leave_the_line(site: Site, key: str) -> None:
    with site.locks.lock(key) as lease:
        pid = site.start(key, "waits")
        late = site.locks.lock(key)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not (site.reaper.check() or site.life.others_of_site()), 20)
        lease.release()
        assert late.try_acquire() is not None, "nobody stands before it"


def test_another_boot_or_machine_proves_nothing(site: Site, key: str) -> None:
    pid = site.start(key)
    [life] = site.life.others_of_site()
    boot, rest = life.path.name.split(".", 1)
    life.path.rename(life.path.with_name(f"{boot[::-1]}.{rest}"))
    os.kill(pid, signal.SIGKILL)
    site.process.wait()
    assert site.held_after_a_look(key)


def test_a_process_id_that_came_again_is_another_process(site: Site, key: str) -> None:
    pid = site.start(key)
    [life] = site.life.others_of_site()
    os.kill(pid, signal.SIGKILL)
    site.process.wait()
    me = Process.current()
    [member] = life.process_files()
    member.path.rename(member.path.with_name(f"main.{os.getppid()}.{me.start}"))  # it lives, but began before
    site.freed(key)


@pytest.mark.parametrize("killed", [False, True])
def test_in_another_pid_namespace_the_lock_of_the_file_is_proof(site: Site, key: str, killed: bool) -> None:
    unshare = [shutil.which("unshare") or "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make pid namespaces (unshare): containers are not tested")
    pid = site.start(key, "holds", *unshare)
    assert pid < 10, "here it is another process"
    [life] = site.life.others_of_site()
    assert life.same_boot
    assert not life.same_namespace
    assert site.held_after_a_look(key)
    if killed:
        os.kill(site.process.pid, signal.SIGKILL)
        site.freed(key)


def test_half_a_record_does_no_harm(site: Site, key: str) -> None:
    pid = site.start(key)
    [life] = site.life.others_of_site()
    [member] = life.process_files()
    with member.path.open("r+b") as file:
        file.seek(journal.SLOT_BYTES)
        file.write(b"\xff" * 3000)
        file.seek(3 * journal.SLOT_BYTES)
        file.write(b"\0" * 5)
    os.kill(pid, signal.SIGKILL)
    site.freed(key)


def test_a_store_that_is_away_is_asked_again(
    redis_server: RedisServer, redis_url: str, proxy: Proxy, tmp_path: Path, key: str
) -> None:
    with ExitStack() as stack:
        site = Site(redis_url.replace(str(redis_server.port), str(proxy.port)), tmp_path, stack)
        os.kill(site.start(key), signal.SIGKILL)
        proxy.refuse()
        site.process.wait()
        with pytest.raises(StoreUnavailable):
            site.reaper.check()
        proxy.heal()
        proxy.drop_reply(1)  # the lease was taken over, and nobody knows
        site.freed(key)


def test_the_lease_of_a_successor_is_left_alone(site: Site, key: str) -> None:
    pid = site.start(key)
    lock = site.locks.lock(key)
    lock.force_release()
    with lock as lease:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not (site.reaper.check() or site.life.others_of_site()), 20)
        assert [holder.token for holder in lock.holders()] == [lease.token]


def test_a_record_lists_what_is_held_now(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal._state, "folder", None)
    monkeypatch.setattr(journal._state, "journal", None)
    life = journal.begin(redis_url, str(tmp_path))
    try:
        record = journal.own_journal()
        assert record is not None
        for number in range(3):
            journal.add_claim(f"token-{number}", "name", f"schlüssel-{number}", "task", "id")
        journal.remove_claim("token-1")
        journal.mark_granted("token-2")
        journal.add_claim("token-3", "name", "k" * 3000, "task", "id")  # too long for a slot
        journal.add_claim("token-4", "na\0me", "key", "task", "id")
        journal.add_claim("token-5", "name", "in the place of 1", "task", "id")
        found = {written.token: written for written in journal.read(record.fd)}
        assert set(found) == {"token-0", "token-2", "token-5"}
        assert found["token-0"].since == 0 < found["token-2"].since
        assert found["token-2"].key == "schlüssel-2"
        assert os.fstat(record.fd).st_size <= 3 * journal.SLOT_BYTES
    finally:
        journal.end(life)
    assert not life.process_files()


def test_who_has_another_prefix_or_store_is_left_alone(site: Site, key: str) -> None:
    site.start(key)
    others = [new_worker_folder(name, str(site.folder)).publish() for name in (None, None, f"{site.url} other")]
    assert not [life.others_of_site() for life in others if life.others_of_site()]


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"celery-locks-{os.geteuid()}").mkdir(mode=0o755)
    with pytest.raises(OSError, match="other users have access to"):
        new_worker_folder("redis://", str(tmp_path))
