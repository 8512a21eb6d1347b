"""The handler from which all handlers of locks are derived."""

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
from celery_locks.flower.access import release_refusal, user_of
from celery_locks.flower.panel import Panel, panel_of
from celery_locks.views import holder_fields

#: The longest text in a request.
MOST_TEXT_BYTES = 16_384
#: The longest body of a release. JSON may write a byte of a key as six.
MOST_BODY_BYTES = 8 * MOST_TEXT_BYTES
#: The greatest fencing token.
MOST_FENCING_TOKEN = 2**63 - 1
#: The rows of a page, by default and at most.
DEFAULT_ROWS, MOST_ROWS = 50, 500


class LocksHandler(BaseHandler):
    """An address of locks. Flower's own handlers authenticate its users."""

    #: Whether errors are answered by a page. Otherwise they are answered by JSON, for scripts and programs.
    answers_html = False

    @property
    def panel(self) -> Panel:
        """The panel of the store that the address names: ``&store=…``.

        Raises:
            HTTPError: 400 if there is no store of this name.
        """
        return self.panel_of_store(self.text_parameter("store"))

    def panel_of_store(self, store: str) -> Panel:
        """Return the panel of a store, by default of the default store.

        Raises:
            HTTPError: 400 if there is no store of this name.
        """
        try:
            return panel_of(self.application.capp, store or DEFAULT_STORE)
        except LookupError as error:
            raise HTTPError(400, "%s", error.args[0]) from None

    def write_error(self, status_code: int, **named: Any) -> None:
        error = named.get("exc_info", (None, None))[1]
        if self.answers_html or status_code == 401 or not isinstance(error, HTTPError):
            super().write_error(status_code, **named)
        else:
            message = error.log_message % error.args if error.log_message else self._reason
            self.finish_with({"error": message}, status_code)

    async def answer(self, read: Awaitable[Any]) -> None:
        """Answer with the result of a read, or with its error."""
        try:
            self.finish_with(await read)
        except LockKeyError as error:
            self.finish_with({"error": str(error)}, 400)
        except (StoreUnavailable, LockConfigError) as error:
            self.finish_with({"error": str(error)}, 503)

    def finish_with(self, data: dict[str, Any], status: int = 200) -> None:
        """Finish the answer with JSON. A header has the time of Flower's clock, to which the data refers."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.set_header("Cache-Control", "no-cache, private")
        self.set_header("X-Locks-Now", str(round(time.time() * 1000)))
        self.finish(json.dumps(data))

    def text_parameter(self, name: str) -> str:
        """Return a parameter of the address unchanged. Flower would escape it, and Tornado strip control characters.

        Raises:
            HTTPError: 400 if it is given twice, is too long, or is not UTF-8.
        """
        values = self.request.query_arguments.get(name, [b""])
        if len(values) > 1:
            raise HTTPError(400, f"{name} is given {len(values)} times")
        if len(values[0]) > MOST_TEXT_BYTES:
            raise HTTPError(400, f"{name} is longer than {MOST_TEXT_BYTES} bytes")
        try:
            return str(values[0].decode("utf-8"))
        except UnicodeDecodeError:
            raise HTTPError(400, f"{name} is not UTF-8") from None

    def number_parameter(self, name: str, default: int, most: int) -> int:
        """Return a parameter of the address that is a whole number from 1 to ``most``.

        Raises:
            HTTPError: 400 if it is not.
        """
        if name not in self.request.query_arguments:
            return default
        text = self.text_parameter(name)
        digits = text.lstrip("0")  # of any number of zeros
        known = text.isascii() and digits.isdigit() and len(digits) <= len(str(most))
        if not known or int(digits) > most:
            raise HTTPError(400, f"{name} must be a whole number from 1 to {most}")
        return int(digits)

    def requested_range(self) -> tuple[str, str | None, int]:
        """Return the range of the list that the address requests: prefix, after, count.

        Raises:
            HTTPError: 400 if one of them is malformed.
        """
        count = self.number_parameter("count", DEFAULT_ROWS, MOST_ROWS)
        return self.text_parameter("prefix"), self.text_parameter("after") or None, count

    async def release(self) -> None:
        """Release the lease that the body names.

        Raises:
            HTTPError: 403 if the user may not release, or the request is from a page of another site. 400 if the body
                is malformed.
        """
        body = self._release_body()
        panel, (key, part, fencing_token) = self._panel_in(body), _lease_in(body)

        async def release() -> dict[str, Any]:
            holder = await panel.release(key, part, fencing_token, user_of(self))
            return {"released": holder is not None, "owner": None if holder is None else holder.owner}

        await self.answer(release())

    async def release_owned(self) -> None:
        """Release all leases of the owner that the body names, and of the owners within it; see `release`."""
        body = self._release_body()
        panel, owner = self._panel_in(body), _text_in(body, "owner")
        if not owner:
            raise HTTPError(400, "owner must be an owner's name")

        async def release() -> dict[str, Any]:
            released = await panel.release_owned(owner, user_of(self))
            leases = [{"key": key, "part": part, **holder_fields(holder)} for key, part, holder in released]
            return {"released": len(released), "leases": leases}

        await self.answer(release())

    def check_release_right(self) -> None:
        """Raise an error if this Flower refuses to release a lease for this request.

        Raises:
            HTTPError: 403, with the remedy.
        """
        refusal = release_refusal(self)
        if refusal:
            raise HTTPError(403, refusal)

    def check_same_site(self) -> None:
        """Raise an error if a page of another site made the browser send the request.

        Raises:
            HTTPError: 403.
        """
        site, origin = self.request.headers.get("Sec-Fetch-Site"), self.request.headers.get("Origin")
        # Behind a proxy the host may differ from the browser's, so the browser's statement has precedence.
        same = site in ("same-origin", "none") if site else not origin or urlsplit(origin).netloc == self.request.host
        if not same:
            raise HTTPError(403, "the request is from a page of another site")

    def _release_body(self) -> dict[str, Any]:
        self.check_release_right()
        self.check_same_site()
        # A form of another site can't send this content type.
        if not self.request.headers.get("Content-Type", "").startswith("application/json"):
            raise HTTPError(400, "the body must be application/json")
        if len(self.request.body) > MOST_BODY_BYTES:
            raise HTTPError(400, f"the body is longer than {MOST_BODY_BYTES} bytes")
        try:
            body = json.loads(self.request.body, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise HTTPError(400, "the body must be JSON: an object, with each name once")
        return body

    def _panel_in(self, body: dict[str, Any]) -> Panel:
        return self.panel_of_store(_text_in(body, "store"))


def _lease_in(body: dict[str, Any]) -> tuple[str, str, int]:
    if not body.keys() >= {"key", "fencing_token"}:
        raise HTTPError(400, "the body must be JSON with a key and a fencing_token, each once")
    fencing_token = body["fencing_token"]
    whole = isinstance(fencing_token, int) and not isinstance(fencing_token, bool)
    if not whole or not 0 < fencing_token <= MOST_FENCING_TOKEN:
        raise HTTPError(400, f"fencing_token must be a whole number from 1 to {MOST_FENCING_TOKEN}")
    return _text_in(body, "key"), _text_in(body, "part"), fencing_token


def _text_in(body: dict[str, Any], name: str) -> str:
    """Return a text of a body; an empty text if the body has none of this name."""
    text = body.get(name, "")
    if not isinstance(text, str) or len(text.encode("utf-8", "surrogatepass")) > MOST_TEXT_BYTES:
        raise HTTPError(400, f"{name} must be a text of at most {MOST_TEXT_BYTES} bytes")
    return text


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found
