"""Lines of the log: one scheme for what becomes of a key, and no passwords."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_locks import Locks, LockTimeout, _logging, owners

SECRET = "redis://user:s3cr%40t@host:6379/0"


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """The records of the library, of all levels."""
    records: list[logging.LogRecord] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, ours = Keeps(), logging.getLogger("celery_locks")
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    yield records
    ours.removeHandler(handler)
    ours.setLevel(level)


def told(lines: list[logging.LogRecord]) -> list[str]:
    return [record.event for record in lines if hasattr(record, "event")]


def test_what_becomes_of_a_lease_is_a_line_each(lines: list[logging.LogRecord]) -> None:
    locks = Locks("memory://")
    lock = locks.lock("user:7", owner=owners.running("shop.sync", "id-1", "celery@web1"))
    lease = lock.acquire()
    with pytest.raises(LockTimeout):
        locks.lock("user:7").acquire(timeout=0)
    lease.release()
    lost = lock.acquire()
    lock.force_release()
    assert not lost.release()
    assert told(lines) == ["acquired", "contended", "released", "acquired", "lost"]
    record = lines[-1]
    named = {name: getattr(record, name) for name in ("key", "task", "task_id", "owner", "fencing_token", "reason")}
    assert named == {
        "key": "user:7",
        "task": "shop.sync",
        "task_id": "id-1",
        "owner": "shop.sync[id-1] on celery@web1",
        "fencing_token": lost.fencing_token,
        "reason": "force_released",
    }
    assert 0 <= record.seconds < 60  # type: ignore[attr-defined]
    text = record.getMessage()
    assert text.startswith(
        "lost the lease of 'user:7': force_released [event=lost key=user:7 task=shop.sync task_id=id-1 "
    )
    assert f"fencing_token={lost.fencing_token} reason=force_released seconds=" in text
    assert not any(lost.token in str(vars(record)) for record in lines)
    assert lines[1].holders == [lease.owner]  # type: ignore[attr-defined]


def test_values_that_hold_blanks_are_quoted(lines: list[logging.LogRecord]) -> None:
    made = _logging.logger("celery_locks.test")
    _logging.line(made, logging.INFO, "skipped", "said", key="a b=c", reason="", seconds=1.23456, owner=None)
    assert lines[0].getMessage() == "said [event=skipped key='a b=c' reason='' seconds=1.235]"
    assert lines[0].lineno > 0
    assert lines[0].filename == "test_log.py"


def test_promise_21_no_line_has_a_password_of_a_url(lines: list[logging.LogRecord]) -> None:
    made = _logging.logger("celery_locks.test")
    made.warning("the broker %s is away, and so is %s", SECRET, "amqp://guest:s3cr@t@rabbit//vhost")
    assert lines[0].getMessage() == (
        "the broker redis://user:***@host:6379/0 is away, and so is amqp://guest:***@rabbit//vhost"
    )


def test_promise_21_nor_has_a_traceback() -> None:
    made, text = logging.getLogger("celery_locks.test_traceback"), io.StringIO()
    assert _logging.logger(made.name) is made
    handler = logging.StreamHandler(text)
    made.addHandler(handler)
    try:
        try:
            raise ValueError(SECRET)
        except ValueError:
            made.exception("it failed")
    finally:
        made.removeHandler(handler)
    assert "ValueError: redis://user:***@host:6379/0" in text.getvalue()
    assert "s3cr" not in text.getvalue()


def test_nothing_is_formatted_that_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("celery_locks").setLevel(logging.WARNING)
    try:
        monkeypatch.setattr(_logging, "line", None)
        with Locks("memory://").lock("k"):
            pass
    finally:
        logging.getLogger("celery_locks").setLevel(logging.NOTSET)


def test_promise_46_no_key_and_no_owner_adds_a_line(lines: list[logging.LogRecord]) -> None:
    forged = "7\n[2026-11-30] WARNING all is well\r\x1b[31m\x85\u2028"
    locks = Locks("memory://")
    lock = locks.lock(forged, owner=forged)
    lease = lock.acquire()
    with pytest.raises(LockTimeout) as caught:
        locks.lock(forged).acquire(timeout=0)
    assert str(caught.value).isprintable()
    lease.release()
    _logging.logger("celery_locks.of_this_test").warning("%s", forged)
    assert len(lines) == 4
    assert all(record.getMessage().isprintable() for record in lines)
    assert lines[0].key == forged  # type: ignore[attr-defined]


def test_all_modules_log_by_the_same_rules() -> None:
    package = Path(_logging.__file__).parent
    raw = [path.name for path in package.rglob("*.py") if "logging.getLogger(" in path.read_text(encoding="utf-8")]
    assert raw == ["_logging.py"]
