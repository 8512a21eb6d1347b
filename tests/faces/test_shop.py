"""The example shop as its README has it: a worker and the page on each of its three places, and all of it at once."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import sync_playwright

from celery_locks.testing.local import processes
from celery_locks.testing.nodes.ports import free_port
from example_project.demo.verdict import most_overlapping, tokens_grow
from example_project.shop import journal
from tests.support import records, report
from tests.support.celery_worker import ROOT, Worker
from tests.support.flower import browser
from tests.support.rabbitmq import RabbitServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Seconds for what must come, on a machine that has much else to do.
PATIENCE = 90


def call(url: str, task: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
    asked = urllib.request.Request(
        f"{url}/tasks/{task}", json.dumps(arguments).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        return answer.code, json.load(answer)


def serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/locks", timeout=PATIENCE) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def started(*argv: str, env: Mapping[str, str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as log:
        process = processes.start([sys.executable, *argv], output=log, env={**os.environ, **env}, cwd=ROOT)
    try:
        yield process
    finally:
        processes.end(process)


def use(url: str) -> None:
    """Calls tasks that get into each other's way, and looks whether they were kept apart."""
    sent = [call(url, "sync_customer", customer_id=1, seconds=0.2) for _ in range(3)]
    sent += [call(url, "take_from_stock", product_id=1, seconds=0.2) for _ in range(4)]
    sent += [call(url, "send_mail", customer_id=number, seconds=0.2) for number in range(5)]
    sent += [call(url, "send_newsletter", edition=1, seconds=0.2)]
    assert {status for status, _ in sent} == {202}
    first, second = (call(url, "index_for_search", shop_id=1, seconds=5) for _ in range(2))
    assert (first[0], second[0], second[1]["outcome"]) == (202, 200, "existing")
    assert first[1]["task_id"] == second[1]["task_id"]
    assert [call(url, "pay_supplier", supplier_id=1, seconds=5)[0] for _ in range(2)] == [202, 409]
    wanted = {answer["task_id"] for _, answer in sent} | {first[1]["task_id"]}
    eventually(lambda: journal.done() >= wanted, PATIENCE, "not all tasks are done")
    by_key = defaultdict(list)
    for run in journal.runs():
        by_key[run.key].append(run)
    for key in ("customer:1", "stock:1", "search:1"):
        assert most_overlapping(by_key[key], {}) == 1
        assert tokens_grow(by_key[key])
    assert 1 <= most_overlapping(by_key["mail-server"], {}) <= 3


def press(url: str) -> None:
    """Presses a button of the page, and sees what comes of it."""
    if (path := browser()) is None:
        report.could_not_have("Chromium", "nobody looked at the shop's page; `apt-get install chromium` brings it")
        return
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.getuid() == 0 else [])
        (page := made.new_page()).set_default_timeout(PATIENCE * 1000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        row = page.get_by_role("row").filter(has=page.get_by_role("button", name="print_label", exact=True))
        row.get_by_role("spinbutton").fill("42")
        row.get_by_role("button").click()
        row.locator("output").filter(has_text="202 sent").wait_for()
        run = page.locator("#runs tr").filter(has_text="printer:42")
        run.filter(has_text="done").wait_for()
        made.close()
    gc.collect()  # Playwright's greenlets end when they are collected: see test_flower_browser.py
    assert problems == []


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "shop.db")
    monkeypatch.setenv("SHOP_DATABASE", path)
    return path


def on(place: str, broker: str, locks: str, database: str, tmp_path: Path) -> None:
    env = {"SHOP_RUNS_ON": place, "SHOP_BROKER": broker, "SHOP_LOCKS": locks, "SHOP_DATABASE": database}
    env["SHOP_LOCKS_FOLDER"] = str(tmp_path)
    url, output = f"http://127.0.0.1:{(port := free_port())}", tmp_path / "web"
    web = ("-m", "flask", "--app", "example_project.shop.web", "run", "--port", str(port))
    with started(*web, env=env, output=output), Worker("example_project.shop.app", concurrency=4, env=env, timeout=90):
        eventually(lambda: serves(url), PATIENCE, "the page does not come")
        use(url)


def test_on_redis(redis_url: str, database: str, tmp_path: Path) -> None:
    on("redis", redis_url, redis_url, database, tmp_path)


def test_on_postgresql_and_rabbitmq(
    rabbit_server: RabbitServer, postgresql_url: str, database: str, tmp_path: Path
) -> None:
    on("postgresql", rabbit_server.url, postgresql_url, database, tmp_path)


def test_opened_on_files_with_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, output, before = processes.make_folder(), tmp_path / "output", records.shared()
    env = {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    argv = ("-m", "example_project.shop", "--embedded", "sqlite", "--port", str(free_port()))
    with started(*argv, env=env, output=output) as shop:
        eventually(lambda: "Ctrl-C ends it" in output.read_text() or shop.poll() is not None, PATIENCE)
        url = re.search(r"http://127.0.0.1:\d+", output.read_text())
        assert url is not None, output.read_text()
        monkeypatch.setenv("SHOP_DATABASE", str(next(folder.glob("celery-locks-demo-*")) / "shop.db"))
        use(url[0])
        press(url[0])
        eventually(lambda: any(run.task == "count_sales" for run in journal.runs()), PATIENCE, "beat sends nothing")
        pids = {process.pid for process in psutil.Process(shop.pid).children(recursive=True)}
        shop.send_signal(signal.SIGINT)
        assert shop.wait(PATIENCE) == 128 + signal.SIGINT
        assert list(folder.iterdir()) == []
        assert len(pids) > 4
        assert records.left_by(pids, before) == []
    assert "All processes and files of the shop are gone." in output.read_text()
    processes.remove_folder(folder)
