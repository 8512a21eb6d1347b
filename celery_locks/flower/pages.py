"""The pages of locks, and the data that their scripts read."""

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

_PACKAGE = files(__package__)
_CONTENT_TYPES = {".js": "text/javascript; charset=UTF-8", ".css": "text/css; charset=UTF-8"}
#: Only scripts of this Flower run, and no other site can show a page of locks in a frame.
_CONTENT_SECURITY_POLICY = "script-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'self'"


class Templates(Loader):
    """Loads our templates, and the templates of Flower that they extend."""

    def _create_template(self, name: str) -> Template:
        template = _PACKAGE / "templates" / name
        if template.is_file():
            return Template(template.read_text(encoding="utf-8"), name=name, loader=self)
        return super()._create_template(name)


class PageHandler(LocksHandler):
    """An address for browsers."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.clear_header("Access-Control-Allow-Origin")  # Flower opens all addresses to other sites
        self.set_header("X-Content-Type-Options", "nosniff")
        # An address may be as long as a browser allows. As the referrer of another request it would not fit.
        self.set_header("Referrer-Policy", "strict-origin")

    def check_xsrf_cookie(self) -> None:
        RequestHandler.check_xsrf_cookie(self)  # Flower's own method checks nothing without a login

    def get_template_path(self) -> str:
        return str(_PACKAGE)  # Tornado caches the loader by this path

    def create_template_loader(self, template_path: str) -> Loader:
        return Templates(os.path.join(os.path.dirname(flower.__file__), "templates"))

    def show(self, template: str, **named: Any) -> None:
        """Answer with a page, whose script reads the data."""
        self.set_header("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        self.set_header("Cache-Control", "no-store")  # the page contains the XSRF token
        store, stores = self.text_parameter("store") or DEFAULT_STORE, stores_of(self.application.capp)
        self.render(template, release_refusal=release_refusal(self), store=store, stores=stores, **named)


class ListPage(PageHandler):
    answers_html = True

    @authenticated
    def get(self) -> None:
        self.show("locks.html")


class ListData(PageHandler):
    @authenticated
    async def get(self) -> None:
        await self.answer(self.panel.read_list(*self.requested_range()))


class KeyPage(PageHandler):
    answers_html = True

    @authenticated
    def get(self) -> None:
        """Answer with the page of a key. Its script reads the key from the address: HTML would change line ends."""
        if not self.text_parameter("key"):
            raise HTTPError(404, "the address names no key")
        self.show("lock.html")


class KeyData(PageHandler):
    @authenticated
    async def get(self) -> None:
        await self.answer(self.panel.read_key(self.text_parameter("key"), self.text_parameter("part")))


class Release(PageHandler):
    def check_xsrf_cookie(self) -> None:
        self.check_release_right()  # before the token, so that the answer names the actual reason
        super().check_xsrf_cookie()

    @authenticated
    async def post(self) -> None:
        """Release a lease."""
        self.check_xsrf_cookie()  # older versions of Flower don't call it
        await self.release()


class ReleaseOwned(Release):
    @authenticated
    async def post(self) -> None:
        """Release all leases of an owner, and of the owners within it."""
        self.check_xsrf_cookie()
        await self.release_owned()


class StaticFile(PageHandler):
    @authenticated
    def get(self, name: str) -> None:
        """Answer with a script or style sheet."""
        file = _PACKAGE / "static" / name
        if "/" in name or Path(name).suffix not in _CONTENT_TYPES or not file.is_file():
            raise HTTPError(404)
        self.set_header("Content-Type", _CONTENT_TYPES[Path(name).suffix])
        self.set_header("Cache-Control", "no-cache")
        self.finish(file.read_bytes())
