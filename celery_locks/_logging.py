"""The lines of the log. Each event of a key is one line, with the same fields in its text and in its record.

A line of an event ends with ``[event=… key=… …]``, and its record has the fields as attributes, for logs in JSON:
``event``, ``key``, ``task``, ``task_id``, ``owner``, ``fencing_token``, ``reason``, ``seconds``, ``holders``. Fields
that are not known are left out. No line contains the password of a URL, or an owner token.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from celery_locks import owners


class NamedLease(Protocol):
    """The fields of a lease that the log shows."""

    @property
    def key(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def fencing_token(self) -> int: ...


def one_line(text: str) -> str:
    """Return a text with line ends and other unprintable characters escaped, which keys and owners may contain."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class _Masked(logging.Filter):
    """Masks the passwords of URLs in a record, also in the error of a broker or a driver, and keeps it on one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        from celery_locks._addresses import mask_text

        text = record.getMessage()
        masked = one_line(mask_text(text))
        if masked != text:
            record.msg, record.args = masked, ()
        if record.exc_info and not record.exc_text:  # a formatter prefers this text, if it is set
            record.exc_text = mask_text(_FORMATTER.formatException(record.exc_info))
        return True


_FORMATTER = logging.Formatter()
_MASKED = _Masked()


def logger(name: str) -> logging.Logger:
    """Return the logger of a module, which masks passwords."""
    named = logging.getLogger(name)
    named.addFilter(_MASKED)
    return named


def line(logger: logging.Logger, level: int, event: str, message: str, **fields: Any) -> None:
    """Log an event of a key.

    Args:
        logger: The module's logger.
        level: The level, as `logging` has it.
        event: The event, in one word.
        message: The event, for people.
        **fields: The fields that are known. ``task`` and ``task_id`` are read from ``owner`` if it names a task.
    """
    task = owners.task_of(fields.get("owner") or "")
    if task is not None:
        fields = {**dict(zip(("task", "task_id"), task, strict=True)), **fields}
    known = {name: _plain(fields[name]) for name in FIELDS if fields.get(name) is not None}
    text = " ".join(f"{name}={_shown(value)}" for name, value in known.items())
    logger.log(level, "%s [event=%s %s]", message, event, text, extra={"event": event, **known}, stacklevel=2)


def of_lease(logger: logging.Logger, level: int, event: str, message: str, lease: NamedLease, **more: Any) -> None:
    """Log an event of a lease; see `line`."""
    line(logger, level, event, message, key=lease.key, owner=lease.owner, fencing_token=lease.fencing_token, **more)


#: The fields, in their order in a line.
FIELDS = ("key", "task", "task_id", "owner", "fencing_token", "reason", "seconds", "holders")


def _plain(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _shown(value: Any) -> str:
    plain = isinstance(value, (int, float)) or (isinstance(value, str) and value and not set(value) & _QUOTED)
    return str(value) if plain and str(value).isprintable() else repr(value)


#: Characters that would make the end of a value unclear.
_QUOTED = set(" =[]'\"")
