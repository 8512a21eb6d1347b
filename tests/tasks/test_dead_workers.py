"""What dead workers leave goes away, by the last worker to end or by workers of another site; nothing else does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from celery_locks.tasks.worker.liveness import new_worker_folder
from celery_locks.tasks.worker.stale_folders import FOUND_DEAD, KEEP_SECONDS, remove_stale_folders
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop
from tests.tasks.test_reaper import Site

LONG_AGO = time.time() - KEEP_SECONDS - 60


class Neighbours:
    """Two sites in one folder: one whose workers die, and one whose worker looks at what they left."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.base = folder / f"celery-locks-{os.geteuid()}"
        self._new_site = lambda: Site(f"sqlite:///{folder}/locks.db", folder, stack)
        self.mortal = self._new_site()
        self.mortal.life.remove()  # until it comes back
        self.own = new_worker_folder("another site", str(folder)).publish()
        self._stranger = Path()

    def start(self, key: str, mode: str = "holds") -> int:
        pid = self.mortal.start(key, mode)
        [life] = self.own.others_of_user()
        self._stranger = life.path
        return pid

    def come_back(self) -> Site:
        """A worker of the site whose processes died."""
        return self._new_site()

    def die(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.mortal.process.wait()

    def is_left_after_a_look(self) -> bool:
        remove_stale_folders(self.own)
        return self._stranger.exists()

    def let_a_day_pass(self) -> None:
        """Since it was found dead, if it was."""
        mark = self._stranger / FOUND_DEAD
        if mark.exists():
            os.utime(mark, (LONG_AGO, LONG_AGO))

    def sites(self) -> int:
        return len(os.listdir(self.base))


@pytest.fixture
def neighbours(tmp_path: Path) -> Iterator[Neighbours]:
    with ExitStack() as stack:
        yield Neighbours(tmp_path, stack)


def test_claims_of_the_dead_wait_a_day_for_their_own_site(neighbours: Neighbours, key: str) -> None:
    neighbours.die(neighbours.start(key))
    for _ in range(3):
        assert neighbours.is_left_after_a_look()
    neighbours.let_a_day_pass()
    assert not neighbours.is_left_after_a_look()
    assert neighbours.sites() == 1, "the folder of their site is gone too"
    assert neighbours.mortal.locks.lock(key).locked(), "a stranger releases nothing"


def test_a_site_that_comes_back_within_the_day_releases_what_its_dead_held(neighbours: Neighbours, key: str) -> None:
    neighbours.die(neighbours.start(key))
    assert neighbours.is_left_after_a_look()
    neighbours.come_back().freed(key)


def test_the_dead_who_claimed_nothing_are_removed_by_the_next_look(neighbours: Neighbours, key: str) -> None:
    neighbours.die(neighbours.start(key, "idles"))
    assert not neighbours.is_left_after_a_look()
    assert neighbours.sites() == 1


@pytest.mark.parametrize("mode", ["holds", "idles", "main_thread_ends", "closes_all", "child_of_the_dead", "forks"])
def test_what_a_living_process_has_is_never_removed(neighbours: Neighbours, key: str, mode: str) -> None:
    neighbours.start(key, mode)
    for _ in range(2):
        assert neighbours.is_left_after_a_look()
        neighbours.let_a_day_pass()


def test_a_life_that_was_never_published_is_removed_after_a_day(neighbours: Neighbours, tmp_path: Path) -> None:
    for site in ("another site", "a third site"):
        life = new_worker_folder(site, str(tmp_path))
        (life.path / ".main.1.1").touch()  # its process died before its file was ready
        remove_stale_folders(neighbours.own)
        assert life.path.exists(), "its process may be about to publish it"
        os.utime(life.path, (LONG_AGO, LONG_AGO))
        remove_stale_folders(neighbours.own)
        assert not life.path.exists()


def test_other_boots_and_other_users_are_left_alone(neighbours: Neighbours, tmp_path: Path, key: str) -> None:
    neighbours.die(neighbours.start(key, "idles"))
    [life] = neighbours.own.others_of_user()
    other_user = tmp_path / "celery-locks-4294967294" / life.path.parent.name
    shutil.copytree(life.path, other_user / life.path.name)
    boot, rest = life.path.name.split(".", 1)
    other_boot = life.path.rename(life.path.with_name(f"{boot[::-1]}.{rest}"))
    stray = neighbours.base / "a file"
    stray.touch()
    remove_stale_folders(neighbours.own)
    assert all(path.exists() for path in (other_user / life.path.name, other_boot, stray))


def test_the_empty_folder_of_a_site_is_removed(neighbours: Neighbours) -> None:
    (neighbours.base / "0123456789abcdef").mkdir()  # its worker was killed before it had made its own folder
    remove_stale_folders(neighbours.own)
    assert neighbours.sites() == 1
    assert neighbours.own.path.exists()


def test_the_last_life_to_end_removes_the_folders(tmp_path: Path) -> None:
    lives = [new_worker_folder(site, str(tmp_path)).publish() for site in ("one", "one", "two")]
    for life in lives[:2]:
        life.remove()
    assert len(os.listdir(lives[2].path.parent.parent)) == 1
    lives[2].remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_lives_that_begin_while_others_end_have_their_folders(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.tasks.worker_records_race", str(tmp_path), "200"]
    racers = [subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(4)]
    for racer in racers:
        _, said = racer.communicate(timeout=120)
        assert not racer.returncode, said.decode()
    assert os.listdir(tmp_path) == []


# --- Workers ---


@pytest.mark.slow
def test_a_worker_removes_what_a_killed_worker_of_another_store_left(shop: Shop, key: str) -> None:
    worker = shop.start_worker(concurrency=1)
    shop.task().delay(key).get(timeout=20)
    records_of_dead = [path.parent for path in shop.folder.rglob("main.*")]
    worker.kill()
    shop.start_worker(pool="solo", env={"SHOP_STORE": f"sqlite:///{shop.folder}/locks.db"})
    assert len(records_of_dead) == 1
    eventually(lambda: not records_of_dead[0].parent.exists(), 20)


@pytest.mark.slow
def test_a_worker_that_fails_to_start_leaves_no_records(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "celery", "-A", "tests.tasks.fails_to_start", "worker", "--concurrency", "1"]
    env = {**os.environ, "FOLDER": str(tmp_path)}
    ended = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert "RuntimeError: this worker fails" in ended.stderr
    assert not list(tmp_path.glob("celery-locks-*"))
