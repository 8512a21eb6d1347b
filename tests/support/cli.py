"""An app, and its ``celery locks`` run in this process."""

from __future__ import annotations

import json
from typing import Any

from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_locks import LockedTask
from celery_locks.cli import locks as locks_group


def nothing(key: str) -> None:
    """Does nothing."""


def make_app(url: str | None, **settings: Any) -> Celery:
    """An app with the task ``shop.sync``; ``url`` is that of its lock store, and its broker is in memory."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update({"locks_url": url, **settings} if url else settings)
    app.task(nothing, name="shop.sync", base=LockedTask, shared=False, lock_key="<key>")
    return app


class Run:
    """Runs commands on an app."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def __call__(self, *args: str, status: int = 0, answer: str | None = None) -> Result:
        context = CLIContext(app=self.app, no_color=True, workdir=None)
        result = CliRunner().invoke(locks_group, args, input=answer, obj=context)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result


def found(app: Celery, status: int = 0) -> dict[str, list[dict[str, str]]]:
    """What ``doctor`` finds in an app, by the name of the check; its exit status must be this one."""
    by_check: dict[str, list[dict[str, str]]] = {}
    for item in json.loads(Run(app)("doctor", "--json", "--patience", "0", status=status).output):
        by_check.setdefault(item["check"], []).append(item)
    return by_check
