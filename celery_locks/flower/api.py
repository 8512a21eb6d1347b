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
        """A page of the list, and figures over all: ``?prefix=…&after=…&count=…``, and of which store: ``&store=…``."""
        await self.answer(self.panel.index(*self.range_asked_for()))


class Key(ApiHandler):
    @authenticated
    async def get(self) -> None:
        """One key: ``?key=…``, a part of it: ``&part=…``, and in which store: ``&store=…``."""
        await self.answer(self.panel.key(self.text_of("key"), self.text_of("part")))


class Release(ApiHandler):
    @authenticated
    async def post(self) -> None:
        """End a lease: ``{"key": …, "fencing_token": …}``; ``"part"`` for that of a part, and ``"store"``."""
        await self.release()


class ReleaseOwned(ApiHandler):
    @authenticated
    async def post(self) -> None:
        """End all leases of an owner, and of those within it: ``{"owner": …}``, and ``"store"``."""
        await self.release_owned()


__all__ = ["Index", "Key", "Release", "ReleaseOwned"]
