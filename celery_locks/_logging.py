"""The lines of the log: what became of a key is one line each, the same in its text and in its fields.

Such a line ends with ``[event=… key=… …]``, and its record has the fields as attributes, for those who log JSON:
``event``, ``key``, ``task``, ``task_id``, ``owner``, ``fencing_token``, ``reason``, ``seconds``, ``holders``; what
is not known is left out. No line has a password of a URL in it, nor an owner token.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from celery_locks import owners


class NamedLease(Protocol):
    """A lease, as the log shows it."""

    @property
    def key(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def fencing_token(self) -> int: ...


def one_line(text: str) -> str:
    """Return a text with line ends and other unprintable characters escaped: keys and owners are what users send."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class _Masked(logging.Filter):
    """Takes the passwords out of URLs, whatever a line came from: a broker's or a driver's error too.

    Each message stays on one line.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        from celery_locks._addresses import mask_text

        text = record.getMessage()
        masked = one_line(mask_text(text))
        if masked != text:
            record.msg, record.args = masked, ()
        if record.exc_info and not record.exc_text:  # a formatter takes this text where there is one
            record.exc_text = mask_text(_FORMATTER.formatException(record.exc_info))
        return True


_FORMATTER = logging.Formatter()
_MASKED = _Masked()


def logger(name: str) -> logging.Logger:
    """The logger of a module, whose lines have no passwords in them."""
    made = logging.getLogger(name)
    made.addFilter(_MASKED)
    return made


def line(logger: logging.Logger, level: int, event: str, said: str, **fields: Any) -> None:
    """Logs what became of a key.

    Args:
        logger: The module's.
        level: Of `logging`.
        event: One word for it.
        said: The same for people.
        **fields: Those that are known; ``task`` and ``task_id`` are read from the ``owner`` where they are in it.
    """
    task = owners.task_of(fields.get("owner") or "")
    if task is not None:
        fields = {**dict(zip(("task", "task_id"), task, strict=True)), **fields}
    known = {name: _plain(fields[name]) for name in FIELDS if fields.get(name) is not None}
    text = " ".join(f"{name}={_shown(value)}" for name, value in known.items())
    logger.log(level, "%s [event=%s %s]", said, event, text, extra={"event": event, **known}, stacklevel=2)


def of_lease(logger: logging.Logger, level: int, event: str, said: str, lease: NamedLease, **more: Any) -> None:
    """Logs what became of a lease; see `line`."""
    line(logger, level, event, said, key=lease.key, owner=lease.owner, fencing_token=lease.fencing_token, **more)


#: In the order in which they are told.
FIELDS = ("key", "task", "task_id", "owner", "fencing_token", "reason", "seconds", "holders")


def _plain(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _shown(value: Any) -> str:
    plain = isinstance(value, (int, float)) or (isinstance(value, str) and value and not set(value) & _QUOTED)
    return str(value) if plain and str(value).isprintable() else repr(value)


#: What would make the end of a value unclear.
_QUOTED = set(" =[]'\"")
