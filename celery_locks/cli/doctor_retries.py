"""The check of retries by ``doctor``: whether messages pile up that come again and again for held keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from celery_locks._logging import one_line
from celery_locks.cli.doctor_results import Finding, within

#: How many deferred messages of one task are many.
MANY = 50
#: How long workers have for an answer.
ANSWER_SECONDS = 1.0
#: How long connecting may take in addition.
CONNECT_SECONDS = 5.0


def check_retries(app: Any) -> Iterator[Finding]:
    """Suggest parking for each task of which many messages wait in workers because their keys were held."""
    deferred = Counter[str]()
    try:
        answers = within(ANSWER_SECONDS + CONNECT_SECONDS, lambda: _ask(app))
    except Exception:  # the check of consumers has reported why workers can't be asked
        return
    for answer in answers:
        for own in answer.values():
            if isinstance(own, dict) and "error" not in own:  # a worker with an older release does not know the command
                deferred.update(own)
    for task, count in deferred.most_common():
        name = one_line(task)
        if count >= MANY:
            yield Finding(
                "retries",
                "warning",
                f"{count} messages of {name} wait to be sent again, since their keys were held. Each comes back by "
                f'chance and costs messages and slots. With lock_on_contention="park", {name} waits in line',
            )


def _ask(app: Any) -> list[dict[str, Any]]:
    with app.connection_for_write() as connection:
        answers: list[dict[str, Any]] | None = app.control.broadcast(
            "deferred_locks", reply=True, timeout=ANSWER_SECONDS, connection=connection
        )
    return answers or []
