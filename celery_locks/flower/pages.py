"""The pages of locks, and what they read."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import flower
from tornado.template import Loader, Template
from tornado.web import HTTPError, RequestHandler, authenticated

from celery_locks._validation import DEFAULT_STORE
from celery_locks.flower.access import release_refusal
from celery_locks.flower.handlers import LocksHandler
from celery_locks.flower.panel import stores_of

_OURS = files(__package__)
_TYPES = {".js": "text/javascript; charset=UTF-8", ".css": "text/css; charset=UTF-8"}
#: Nothing but files of this Flower is run, and no other site can lay a page of locks under its own.
_POLICY = "script-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'self'"


class Templates(Loader):
    """Our templates, and those of Flower that they extend."""

    def _create_template(self, name: str) -> Template:
        ours = _OURS / "templates" / name
        if ours.is_file():
            return Template(ours.read_text(encoding="utf-8"), name=name, loader=self)
        return super()._create_template(name)


class PageHandler(LocksHandler):
    """An address for browsers."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.clear_header("Access-Control-Allow-Origin")  # Flower opens its API to other sites, and these are not it
        self.set_header("X-Content-Type-Options", "nosniff")
        # A key may be as long as an address can be: sent along as the referrer, it would be there twice.
        self.set_header("Referrer-Policy", "strict-origin")

    def check_xsrf_cookie(self) -> None:
        RequestHandler.check_xsrf_cookie(self)  # Flower's own lets all pass where no login is set up

    def get_template_path(self) -> str:
        return str(_OURS)  # by which Tornado keeps the loader

    def create_template_loader(self, template_path: str) -> Loader:
        return Templates(os.path.join(os.path.dirname(flower.__file__), "templates"))

    def show(self, template: str, **named: Any) -> None:
        """A page that asks for its data itself."""
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cache-Control", "no-store")  # it holds the token against forged requests
        store, stores = self.text_of("store") or DEFAULT_STORE, stores_of(self.application.capp)
        self.render(template, release_refusal=release_refusal(self), store=store, stores=stores, **named)


class IndexPage(PageHandler):
    html = True

    @authenticated
    def get(self) -> None:
        """The list."""
        self.show("locks.html")


class IndexData(PageHandler):
    @authenticated
    async def get(self) -> None:
        """What the list shows."""
        await self.answer(self.panel.index(*self.range_asked_for()))


class KeyPage(PageHandler):
    html = True

    @authenticated
    def get(self) -> None:
        """The page of one key. Which one, its script reads from the address: HTML would change line ends."""
        if not self.text_of("key"):
            raise HTTPError(404, "no key is given")
        self.show("lock.html")


class KeyData(PageHandler):
    @authenticated
    async def get(self) -> None:
        """What the page of a key shows."""
        await self.answer(self.panel.key(self.text_of("key"), self.text_of("part")))


class Release(PageHandler):
    def check_xsrf_cookie(self) -> None:
        self.refuse_release()  # before a missing token, so that the answer names the actual reason
        super().check_xsrf_cookie()

    @authenticated
    async def post(self) -> None:
        """Ends a lease."""
        self.check_xsrf_cookie()  # older Flowers don't
        await self.release()


class StaticFile(PageHandler):
    @authenticated
    def get(self, name: str) -> None:
        """Our scripts and styles."""
        file = _OURS / "static" / name
        if "/" in name or Path(name).suffix not in _TYPES or not file.is_file():
            raise HTTPError(404)
        self.set_header("Content-Type", _TYPES[Path(name).suffix])
        self.set_header("Cache-Control", "no-cache")
        self.finish(file.read_bytes())
