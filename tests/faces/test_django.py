"""Django: a small project whose own tests run in a process of their own, and one run by a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.celery_worker import ROOT, Worker
from tests.support.servers import RedisServer

SITE = Path(__file__).parent / "django_site"
CALL = """
import os
import django
import shop
django.setup()
from django.contrib.auth.models import Group
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import transaction
from celery_locks import Locks
from celery_locks.tasks.options import _locks
from shop.celery import app
from shop import tasks

def found():
    return run_checks(tags=["celery_locks"], include_deployment_checks=True)

call_command("migrate", verbosity=0)
print(found())
results = []
send = tasks.describe.delay
tasks.describe.delay = lambda *args: results.append(send(*args))
with transaction.atomic():
    tasks.describe.delay_on_commit(Group.objects.create(name="never").pk)
    transaction.set_rollback(True)
print(len(results), Locks.from_app(app).stats().locks)
with transaction.atomic():
    tasks.describe.delay_on_commit(Group.objects.create(name="committed").pk)
print(results[0].get(timeout=60))
_locks[app] = {"default": Locks(os.environ["EVICTING"])}
for warning in found():
    print(warning.id, "|", warning.msg, "|", warning.hint)
"""


def environment(**own: str) -> dict[str, str]:
    base = {name: text for name, text in os.environ.items() if not name.startswith(("CELERY_LOCKS_", "PYTEST_"))}
    return {
        **base,
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT)]),
        **own,
    }


def run(*argv: str, **own: str) -> str:
    ended = subprocess.run(
        [sys.executable, *argv],
        cwd=SITE,
        env=environment(**own),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_tests_of_the_project() -> None:
    said = run("-m", "pytest", "-c", "pytest.ini", "-q")
    assert " passed" in said
    assert " skipped" not in said


@pytest.mark.slow
def test_promise_24_a_commit_with_a_real_worker(
    redis_url: str, start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    evicting = start_redis(maxmemory_policy="allkeys-lru", options={"maxmemory": "100mb"})
    own = {"SHOP_BROKER": redis_url, "SHOP_LOCKS": redis_url, "SHOP_DB": str(tmp_path / "db.sqlite3")}
    with Worker("shop", concurrency=1, env=environment(**own), cwd=SITE, timeout=60):
        said = run("-c", CALL, EVICTING=evicting.url(), **own).splitlines()
    assert said[:2] == ["[]", "0 0"]
    assert said[2].startswith("committed under group:")
    assert said[2].endswith(" for 7 s")
    assert len(said) == 4
    number, text, remedy = said[3].split(" | ")
    assert number == "celery_locks.W003"
    assert "maxmemory-policy allkeys-lru" in text
    assert remedy.startswith("Set maxmemory-policy noeviction")


def test_a_project_without_a_celery_app_is_reported() -> None:
    code = (
        "import django; from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['celery_locks.contrib.django']); django.setup()\n"
        "from django.core.checks import run_checks; print([each.id for each in run_checks(tags=['celery_locks'])])"
    )
    assert run("-c", code, DJANGO_SETTINGS_MODULE="").strip() == "['celery_locks.E001']"
