"""The documentation states what the code does. What its readers paste and type is tested in ``tests/package``."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable

import pytest

from celery_locks import Locks
from tests.support import pages
from tests.support.celery_worker import ROOT
from tests.support.cli import Run, make_app
from tests.support.servers import RedisServer


def test_every_diagram_is_drawn_from_its_text() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "diagrams" / "draw.py"))
    texts = sorted((ROOT / "docs" / "diagrams").glob("*.mmd"))
    assert texts
    for text in texts:
        picture = ROOT / "docs" / "assets" / f"{text.stem}.svg"
        assert drawing["digest"](text) in picture.read_text(), f"{picture.name} is out of date: make diagrams"


@pytest.mark.usefixtures("no_shared_tasks")
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
    scripts = "".join(path.read_text() for path in (ROOT / "celery_locks" / "stores" / "redis" / "lua").rglob("*.lua"))
    of_locks = set(re.findall(r"LOCK \.\. (?:of_broker\()?':(\w+)", scripts)) | {"until", "line", "alive", "wake"}
    of_all = set(re.findall(r"(?:PREFIX|INDEX) \.\. (?:of_broker\()?'(\w+)", scripts))
    assert {"value", "runs", "due"} < of_locks
    assert {"parked", "locks", "task"} < of_all
    assert [name for name in of_locks if f"| `<name>:{name}" not in page] == []
    assert [name for name in of_all if f"| `<prefix>:{name}" not in page] == []
    assert [table.name for table in SERVER_TABLES if f"| `celery_locks_{table.name}` |" not in page] == []
