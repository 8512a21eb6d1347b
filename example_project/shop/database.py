"""The shop's database: a SQLite file that is independent of the locks, so that it shows whether they failed."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

SCHEMA = """
CREATE TABLE account (
    customer_id INTEGER PRIMARY KEY, cents INTEGER NOT NULL, fencing_token INTEGER NOT NULL
);
CREATE TABLE payment (order_id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL, cents INTEGER NOT NULL);
CREATE TABLE run (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, task TEXT NOT NULL, key TEXT NOT NULL, fencing_token INTEGER,
    worker TEXT NOT NULL, pid INTEGER NOT NULL, began REAL NOT NULL, ended REAL, outcome TEXT
);
"""


class StaleWriteError(Exception):
    """A run without a lease tried to write after a later run had written."""


@contextmanager
def connect() -> Iterator[sqlite3.Connection]:
    """Open a connection for one transaction. The first one makes the tables."""
    path = Path(os.environ.get("SHOP_DATABASE", "shop.db"))
    if not path.exists():
        _create(path)
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")  # enough for killed processes, but not for a power cut
        yield db


def balance(customer_id: int) -> int:
    """Return the amount charged to a customer so far, in cents."""
    with connect() as db:
        row = db.execute("SELECT cents FROM account WHERE customer_id = ?", (customer_id,)).fetchone()
    return row[0] if row else 0


def charge(order_id: int, customer_id: int, cents: int, total: int, fencing_token: int | None) -> None:
    """Record the payment of an order and the account's new total, unless the order is paid already.

    Raises:
        StaleWriteError: A run with a higher fencing token has written before.
    """
    with connect() as db:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("SELECT 1 FROM payment WHERE order_id = ?", (order_id,)).fetchone():
            return  # its message was delivered twice
        db.execute("INSERT OR IGNORE INTO account VALUES (?, 0, 0)", (customer_id,))
        written = db.execute(
            "UPDATE account SET cents = ?1, fencing_token = coalesce(?2, 0) "
            "WHERE customer_id = ?3 AND (?2 IS NULL OR fencing_token < ?2)",
            (total, fencing_token, customer_id),
        ).rowcount
        if not written:
            raise StaleWriteError(f"account {customer_id}: fencing token {fencing_token} is older than the last")
        db.execute("INSERT INTO payment VALUES (?, ?, ?)", (order_id, customer_id, cents))
        db.execute("COMMIT")


def money() -> tuple[int, int]:
    """Return the cents on all accounts and the cents of all payments. They differ if a charge was overwritten."""
    with connect() as db:
        accounts = db.execute("SELECT coalesce(sum(cents), 0) FROM account").fetchone()[0]
        payments = db.execute("SELECT coalesce(sum(cents), 0) FROM payment").fetchone()[0]
    return accounts, payments


def _create(path: Path) -> None:
    """Make the tables in a temporary file and link it, so that every process finds either no file or a complete one."""
    with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
        temporary = Path(folder, path.name)
        with closing(sqlite3.connect(temporary)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)
        with suppress(FileExistsError):
            os.link(temporary, path)
