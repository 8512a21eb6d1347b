"""The documentation is true: its Python runs, and the README's quick start does what it says, with a real worker."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from celery_locks import Locks
from tests.support import pages
from tests.support.celery_worker import ROOT, Worker
from tests.support.cli import Run, make_app
from tests.support.servers import RedisServer

README_URL = "redis://localhost:6379/0"
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if pages.code(page.read_text(), "python")]


def run(code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    environment.pop("CELERY_LOCKS_URL", None)
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Blocks with a title are files that the others may import; the tutorial's are tested in tests/package."""
    for fence in pages.fences(page.read_text()):
        if fence.title and fence.language == "python":
            (tmp_path / fence.title).write_text(fence.text)
    run("\n".join(pages.code(page.read_text(), "python")), tmp_path)


def test_every_diagram_is_drawn_from_its_text() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "diagrams" / "draw.py"))
    texts = sorted((ROOT / "docs" / "diagrams").glob("*.mmd"))
    assert texts
    for text in texts:
        picture = ROOT / "docs" / "assets" / f"{text.stem}.svg"
        assert drawing["digest"](text) in picture.read_text(), f"{picture.name} is out of date: make diagrams"


def test_a_server_takes_the_settings_for_production(start_redis: Callable[..., RedisServer]) -> None:
    """The first block works on a single server; with the second one doctor finds that replicas are missing."""
    page = (ROOT / "docs" / "how-to" / "production.md").read_text()
    blocks = [fence.text for fence in pages.fences(page) if fence.title.startswith("redis.conf")]
    single, replicated = [
        dict(line.split(maxsplit=1) for line in text.splitlines() if not line.startswith("#")) for text in blocks
    ]
    assert set(single) == {"maxmemory-policy", "appendonly", "appendfsync"}
    assert set(replicated) == {"min-replicas-to-write", "min-replicas-max-lag"}
    url = start_redis(options=single).url()
    assert Locks(url).lock("k").try_acquire()
    Run(make_app(url, broker_url="memory://"))("doctor", status=0)
    output = Run(make_app(start_redis(options={**single, **replicated}).url()))("doctor", status=2).output
    assert re.search("(?m)^error .*NOREPLICAS.*min-replicas-to-write 0", output)


@pytest.mark.slow
def test_the_quick_start(redis_server: RedisServer, redis_url: str, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    assert README_URL in text
    tasks, use = pages.code(text.replace(README_URL, redis_url), "python")
    (tmp_path / "tasks.py").write_text(tasks)
    with Worker("tasks", concurrency=4, cwd=tmp_path):
        printed = run(use, tmp_path).splitlines()
    numbers = [int(re.fullmatch(r"user 7 synced under user:7, fencing token (\d+)", line)[1]) for line in printed[:2]]  # type: ignore[index]
    assert numbers[0] != numbers[1]
    assert printed[2] == "1 of 3 were skipped"


def test_the_table_of_what_stores_can_do_is_that_of_the_code() -> None:
    from celery_locks.stores.capabilities import table

    page = (ROOT / "docs" / "how-to" / "stores.md").read_text()
    assert table() in page, f"write into docs/how-to/stores.md:\n{table()}"


def test_every_option_is_documented() -> None:
    from celery_locks.settings import OPTION_NAMES

    page = (ROOT / "docs" / "reference" / "options.md").read_text()
    assert [name for name in OPTION_NAMES if f"| `{name}` |" not in page] == []


def test_every_error_and_signal_is_documented() -> None:
    from celery_locks import errors, signals

    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    names = [name for name in vars(errors) if name.startswith(("Lock", "Store")) and name != "LockError"]
    names += [name for name in vars(signals) if name.startswith("on_lock_")]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_key_and_table_in_a_store_is_documented() -> None:
    from celery_locks.stores.sql.schema import SERVER_TABLES

    page = (ROOT / "docs" / "reference" / "layout.md").read_text()
    scripts = "".join(path.read_text() for path in (ROOT / "celery_locks" / "stores" / "redis").glob("*.lua"))
    of_locks = set(re.findall(r"LOCK \.\. ':(\w+)", scripts)) | {"until", "line", "alive", "wake"}
    of_all = set(re.findall(r"PREFIX \.\. '(\w+)", scripts))
    assert {"value", "runs", "due"} < of_locks
    assert {"parked", "locks", "task"} < of_all
    assert [name for name in of_locks if f"| `<name>:{name}" not in page] == []
    assert [name for name in of_all if f"| `<prefix>:{name}" not in page] == []
    assert [table.name for table in SERVER_TABLES if f"| `celery_locks_{table.name}` |" not in page] == []


@pytest.mark.slow
def test_the_store_of_the_how_to_passes_the_compliance_suite(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "writing-a-store.md"
    (tmp_path / "test_file_store.py").write_text("\n".join(pages.code(page.read_text(), "python")))
    printed = run(
        "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'test_file_store.py']))", tmp_path
    )
    passed, skipped = re.search(r"(\d+) passed, (\d+) skipped", printed).groups()  # type: ignore[union-attr]
    assert int(passed) >= 45
    assert int(skipped) < 60
