"""What the addresses of the panel have in common."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from flower.views import BaseHandler
from tornado.web import HTTPError

from celery_locks import LockConfigError, LockKeyError, StoreUnavailable
from celery_locks._validation import DEFAULT_STORE
from celery_locks.flower.access import asker, release_refusal
from celery_locks.flower.panel import Panel, panel_of
from celery_locks.views import holder_fields

#: The greatest key that is asked for, in bytes of UTF-8.
LONGEST_KEY = 16_384
#: The greatest body of a release, in bytes: JSON may write a byte of a key as six.
LONGEST_BODY = 8 * LONGEST_KEY
#: The greatest number that a request may name.
GREATEST = 2**63 - 1
#: Rows of a page if not said otherwise, and at most.
ROWS, MOST_ROWS = 50, 500


class LocksHandler(BaseHandler):
    """An address of the panel. Flower's own handlers say who may come in."""

    #: Whether errors are told by a page: to people, and not to scripts and programs.
    html = False

    @property
    def panel(self) -> Panel:
        """The panel of the store that the address asks for: ``&store=…``.

        Raises:
            HTTPError: 400 when there is no such store.
        """
        return self.panel_of_store(self.text_of("store"))

    def panel_of_store(self, store: str) -> Panel:
        """Return the panel of a store, by default of the default store.

        Raises:
            HTTPError: 400 when there is no such store.
        """
        try:
            return panel_of(self.application.capp, store or DEFAULT_STORE)
        except LookupError as error:
            raise HTTPError(400, "%s", error.args[0]) from None

    def write_error(self, status_code: int, **named: Any) -> None:
        """Says what is wrong."""
        error = named.get("exc_info", (None, None))[1]
        if self.html or status_code == 401 or not isinstance(error, HTTPError):
            super().write_error(status_code, **named)
        else:
            message = error.log_message % error.args if error.log_message else self._reason
            self.finish_with({"error": message}, status_code)

    async def answer(self, read: Awaitable[Any]) -> None:
        """Answers with what is read, or with why it could not be: never with an empty list where nothing is known."""
        try:
            self.finish_with(await read)
        except LockKeyError as error:
            self.finish_with({"error": str(error)}, 400)
        except (StoreUnavailable, LockConfigError) as error:
            self.finish_with({"error": str(error)}, 503)

    def finish_with(self, data: dict[str, Any], status: int = 200) -> None:
        """Ends with JSON, and Flower's clock: all moments in the data are by it."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.set_header("Cache-Control", "no-cache, private")
        self.set_header("X-Locks-Now", str(round(time.time() * 1000)))
        self.finish(json.dumps(data))

    def text_of(self, name: str) -> str:
        """A parameter of the address, to the letter: Flower would escape it, and Tornado change control characters.

        Raises:
            HTTPError: 400 when it is given twice, is too long or no UTF-8.
        """
        values = self.request.query_arguments.get(name, [b""])
        if len(values) > 1:
            raise HTTPError(400, f"{name} is given {len(values)} times")
        if len(values[0]) > LONGEST_KEY:
            raise HTTPError(400, f"{name} is longer than {LONGEST_KEY} bytes")
        try:
            return str(values[0].decode("utf-8"))
        except UnicodeDecodeError:
            raise HTTPError(400, f"{name} is not UTF-8") from None

    def number_of(self, name: str, default: int, most: int) -> int:
        """A parameter of the address that is a whole number from 1 on.

        Raises:
            HTTPError: 400 when it is anything else, or greater than the most.
        """
        if name not in self.request.query_arguments:
            return default
        text = self.text_of(name)
        digits = text.lstrip("0")  # as many as there are: the length of the rest bounds the number
        known = text.isascii() and digits.isdigit() and len(digits) <= len(str(most))
        if not known or int(digits) > most:
            raise HTTPError(400, f"{name} must be a whole number from 1 to {most}")
        return int(digits)

    def range_asked_for(self) -> tuple[str, str | None, int]:
        """What part of the list the address asks for: prefix, after, count.

        Raises:
            HTTPError: 400 when one of them is malformed.
        """
        return self.text_of("prefix"), self.text_of("after") or None, self.number_of("count", ROWS, MOST_ROWS)

    async def release(self) -> None:
        """Ends the lease that the body names, if this Flower may.

        Raises:
            HTTPError: 403 if this Flower releases nothing for this request, or if another site made it; 400 for
                another body.
        """
        self.refuse_release()
        self.refuse_other_sites()
        body = self._body()
        panel, (key, part, fencing_token) = self._panel_named(body), _lease_named(body)

        async def release() -> dict[str, Any]:
            holder = await panel.release(key, part, fencing_token, asker(self))
            return {"released": holder is not None, "owner": None if holder is None else holder.owner}

        await self.answer(release())

    async def release_owned(self) -> None:
        """End all leases of the owner that the body names, if this Flower may; see `release`."""
        self.refuse_release()
        self.refuse_other_sites()
        body = self._body()
        panel, owner = self._panel_named(body), _text_in(body, "owner")
        if not owner:
            raise HTTPError(400, "owner must be an owner's name")

        async def release() -> dict[str, Any]:
            released = await panel.release_owned(owner, asker(self))
            named = [{"key": key, "part": part, **holder_fields(holder)} for key, part, holder in released]
            return {"released": len(released), "leases": named}

        await self.answer(release())

    def refuse_release(self) -> None:
        """Refuses where this Flower releases nothing for this request.

        Raises:
            HTTPError: 403 then, with the remedy.
        """
        refusal = release_refusal(self)
        if refusal:
            raise HTTPError(403, refusal)

    def refuse_other_sites(self) -> None:
        """Refuses what a page of another site has a browser send.

        Raises:
            HTTPError: 403 then.
        """
        site, origin = self.request.headers.get("Sec-Fetch-Site"), self.request.headers.get("Origin")
        # Behind a proxy the host may be another than the browser's, so its own word is preferred.
        same = site in ("same-origin", "none") if site else not origin or urlsplit(origin).netloc == self.request.host
        if not same:
            raise HTTPError(403, "another site asked for it")

    def _body(self) -> dict[str, Any]:
        # A form of another site can't send this type.
        if not self.request.headers.get("Content-Type", "").startswith("application/json"):
            raise HTTPError(400, "the body must be application/json")
        if len(self.request.body) > LONGEST_BODY:
            raise HTTPError(400, f"the body is longer than {LONGEST_BODY} bytes")
        try:
            body = json.loads(self.request.body, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise HTTPError(400, "the body must be JSON: an object, with each name once")
        return body

    def _panel_named(self, body: dict[str, Any]) -> Panel:
        return self.panel_of_store(_text_in(body, "store"))


def _lease_named(body: dict[str, Any]) -> tuple[str, str, int]:
    if not body.keys() >= {"key", "fencing_token"}:
        raise HTTPError(400, "the body must be JSON with a key and a fencing_token, each once")
    fencing_token = body["fencing_token"]
    whole = isinstance(fencing_token, int) and not isinstance(fencing_token, bool)
    if not whole or not 0 < fencing_token <= GREATEST:
        raise HTTPError(400, f"fencing_token must be a whole number from 1 to {GREATEST}")
    return _text_in(body, "key"), _text_in(body, "part"), fencing_token


def _text_in(body: dict[str, Any], name: str) -> str:
    """Return a text of a body, an empty one where it has none of this name."""
    text = body.get(name, "")
    if not isinstance(text, str) or len(text.encode("utf-8", "surrogatepass")) > LONGEST_KEY:
        raise HTTPError(400, f"{name} must be a text of at most {LONGEST_KEY} bytes")
    return text


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found
