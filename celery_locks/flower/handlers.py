"""What the addresses of the panel have in common."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from flower.views import BaseHandler
from tornado.web import HTTPError

from celery_locks import LockConfigError, LockKeyError, StoreUnavailable
from celery_locks.flower.panel import Panel, panel_of

#: The greatest key that is asked for, in bytes of UTF-8.
LONGEST_KEY = 16_384
#: Rows of a page if not said otherwise, and at most.
ROWS, MOST_ROWS = 50, 500


class LocksHandler(BaseHandler):
    """An address of the panel. Flower's own handlers say who may come in."""

    #: Whether errors are told by a page: to people, and not to scripts and programs.
    html = False

    @property
    def panel(self) -> Panel:
        return panel_of(self.application.capp)

    @property
    def read_only(self) -> bool:
        return bool(getattr(self.application.options, "read_only", False))

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
            HTTPError: 400 when it is no UTF-8 or too long.
        """
        raw = self.request.query_arguments.get(name, [b""])[-1]
        if len(raw) > LONGEST_KEY:
            raise HTTPError(400, f"{name} is longer than {LONGEST_KEY} bytes")
        try:
            return str(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise HTTPError(400, f"{name} is not UTF-8") from None

    def range_asked_for(self) -> tuple[str, str | None, int]:
        """What part of the list the address asks for: prefix, after, count.

        Raises:
            HTTPError: 400 when the count is none.
        """
        count = self.text_of("count") or str(ROWS)
        if not (count.isascii() and count.isdigit() and 1 <= int(count[:9]) <= MOST_ROWS):
            raise HTTPError(400, f"count must be a whole number from 1 to {MOST_ROWS}")
        return self.text_of("prefix"), self.text_of("after") or None, int(count)

    async def release(self) -> None:
        """Ends the lease that the body names, if this Flower may.

        Raises:
            HTTPError: 403 for a read-only Flower or a request that another site made; 400 for another body.
        """
        if self.read_only:
            raise HTTPError(403, "Flower is read-only")
        self.refuse_other_sites()
        key, fencing_token = self._lease_named()
        try:
            holder = await self.panel.release(key, fencing_token, self._who())
        except LockKeyError as error:
            self.finish_with({"error": str(error)}, 400)
        except (StoreUnavailable, LockConfigError) as error:
            self.finish_with({"error": str(error)}, 503)
        else:
            owner = None if holder is None else holder.owner
            self.finish_with({"released": holder is not None, "owner": owner})

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

    def _lease_named(self) -> tuple[str, int]:
        # A form of another site can't send this type.
        if not self.request.headers.get("Content-Type", "").startswith("application/json"):
            raise HTTPError(400, "the body must be application/json")
        try:
            body = json.loads(self.request.body)
            key, fencing_token = body["key"], body["fencing_token"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise HTTPError(400, "the body must be JSON with a key and a fencing_token") from None
        if not isinstance(key, str) or isinstance(fencing_token, bool) or not isinstance(fencing_token, int):
            raise HTTPError(400, "key must be a text and fencing_token a number")
        return key, fencing_token

    def _who(self) -> str:
        """Who asks, for the log and the history."""
        if isinstance(self.current_user, str):
            return self.current_user
        try:
            kind, secret = self.request.headers.get("Authorization", "").split()
            if kind == "Basic":
                return b64decode(secret).decode().partition(":")[0]
        except ValueError:
            pass
        return str(self.request.remote_ip)
