"""Values that are kept with locks, in tables."""

from __future__ import annotations

from celery_locks.stores.sql.session import Session


def write(session: Session, name: str, token: str, text: str, keep: float) -> bool:
    """Keep a value with a lock, as `Store.write` does."""
    query = "SELECT 1 FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
    if session.execute(query, (name, token, session.now)).fetchone() is None:
        return False
    session.put("value", ("name",), {"name": name, "text": text, "deadline": session.after(keep)})
    return True


def read(session: Session, name: str) -> str | None:
    """Return the value of a lock, as `Store.value` does."""
    query = "SELECT text FROM celery_locks_value WHERE name = ? AND deadline > ?"
    row = session.execute(query, (name, session.now)).fetchone()
    return None if row is None else str(row[0])


def written(session: Session, name: str) -> int | None:
    """Return the deadline of a lock's value, which identifies it. ``None`` if there is no value."""
    query = "SELECT deadline FROM celery_locks_value WHERE name = ? AND deadline > ?"
    row = session.execute(query, (name, session.now)).fetchone()
    return None if row is None else int(row[0])


def delete(session: Session, name: str, deadline: int) -> None:
    """Delete the value with a deadline."""
    session.execute("DELETE FROM celery_locks_value WHERE name = ? AND deadline = ?", (name, deadline))
