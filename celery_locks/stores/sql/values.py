"""Values that are kept with locks, in tables."""

from __future__ import annotations

from celery_locks.stores.sql.schema import REMEMBERED
from celery_locks.stores.sql.session import Session


def write(session: Session, name: str, token: str, text: str, keep: float) -> bool:
    """`Store.write`."""
    query = "SELECT 1 FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
    if session.execute(query, (name, token, session.now)).fetchone() is None:
        return False
    session.put("value", ("name",), {"name": name, "text": text, "deadline": session.after(keep)})
    return True


def read(session: Session, name: str) -> str | None:
    """`Store.value`."""
    query = "SELECT text FROM celery_locks_value WHERE name = ? AND deadline > ?"
    row = session.execute(query, (name, session.now)).fetchone()
    return None if row is None else str(row[0])


def delete(session: Session, name: str) -> bool:
    """`Store.delete`."""
    query = "DELETE FROM celery_locks_value WHERE name = ? AND deadline > ?"
    return session.execute(query, (name, session.now)).rowcount > 0


def delete_once(session: Session, name: str, call: str) -> bool:
    """`Store.delete`, which knows it when this call has done it already, and only the reply was lost.

    Args:
        session: The transaction.
        name: The lock's full name.
        call: What this call is called, however often it is tried.
    """
    mark = f"deleted:{call}"  # the name of no lock
    if read(session, mark) is not None:
        return True
    there = delete(session, name)
    if there:
        session.put("value", ("name",), {"name": mark, "text": "", "deadline": session.now + REMEMBERED})
    return there
