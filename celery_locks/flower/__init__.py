"""Pages of locks in Flower: which keys are held, their holders and waiters, and the release of a lease by hand.

``celery -A proj flower`` shows them when ``celery-locks[flower]`` is installed. Code that makes a
``flower.app.Flower`` itself calls `install` first.
"""

from __future__ import annotations

__all__ = ["install"]


def install() -> None:
    """Add the locks to Flower: pages, an entry in its navigation, and options. A second call changes nothing.

    Call it before you make a ``flower.app.Flower``.

    Raises:
        ImportError: Flower is not installed.
    """
    from celery_locks.flower import _flower_patches

    _flower_patches.install()
