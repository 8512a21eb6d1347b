"""A page of locks in Flower: what is held, who holds it, who waits, and how it is freed.

``celery -A proj flower`` has it by itself once ``celery-locks[flower]`` is installed. Who builds ``flower.app.Flower``
in code calls `install` before.
"""

from __future__ import annotations

__all__ = ["install"]


def install() -> None:
    """Adds the locks to Flower: pages, an entry in its navigation, and options. Called again it changes nothing.

    Call it before ``flower.app.Flower`` is made.

    Raises:
        ImportError: Flower is not installed.
    """
    from celery_locks.flower.extension import install

    install()
