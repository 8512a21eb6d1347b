"""Locks for programs: closed, like all of Flower's API, until a login is set up or ``FLOWER_UNAUTHENTICATED_API``."""

from __future__ import annotations

from flower.api import BaseApiHandler
from tornado.web import authenticated

from celery_locks.flower.handlers import LocksHandler


class ApiHandler(LocksHandler, BaseApiHandler):
    """An address for programs: they have no cookies, and need none."""


class Index(ApiHandler):
    @authenticated
    async def get(self) -> None:
        """A page of the list, and figures over all: ``?prefix=…&after=…&count=…``."""
        await self.answer(self.panel.index(*self.range_asked_for()))


class Key(ApiHandler):
    @authenticated
    async def get(self) -> None:
        """One key: ``?key=…``, and a part of it: ``&part=…``."""
        await self.answer(self.panel.key(self.text_of("key"), self.text_of("part")))


class Release(ApiHandler):
    @authenticated
    async def post(self) -> None:
        """Ends a lease: ``{"key": …, "fencing_token": …}``, and ``"part"`` for that of a part."""
        await self.release()


__all__ = ["Index", "Key", "Release"]
