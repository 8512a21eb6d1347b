"""The addresses for programs. Like all of Flower's API they need a login or ``FLOWER_UNAUTHENTICATED_API``."""

from __future__ import annotations

from flower.api import BaseApiHandler
from tornado.web import authenticated

from celery_locks.flower.handlers import LocksHandler


class ApiHandler(LocksHandler, BaseApiHandler):
    """An address for programs, which have no cookies."""


class List(ApiHandler):
    @authenticated
    async def get(self) -> None:
        """Answer with a page of keys, and figures over all keys: ``?prefix=…&after=…&count=…&store=…``."""
        await self.answer(self.panel.read_list(*self.requested_range()))


class Key(ApiHandler):
    @authenticated
    async def get(self) -> None:
        """Answer with one key, or a part of it: ``?key=…&part=…&store=…``."""
        await self.answer(self.panel.read_key(self.text_parameter("key"), self.text_parameter("part")))


class Release(ApiHandler):
    @authenticated
    async def post(self) -> None:
        """Release a lease: ``{"key": …, "fencing_token": …}``, with ``"part"`` and ``"store"`` if needed."""
        await self.release()


class ReleaseOwned(ApiHandler):
    @authenticated
    async def post(self) -> None:
        """Release all leases of an owner, and of the owners within it: ``{"owner": …}``, with ``"store"`` if needed."""
        await self.release_owned()


__all__ = ["Key", "List", "Release", "ReleaseOwned"]
