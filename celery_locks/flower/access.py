"""Who may release a lock in Flower, and who asked for it."""

from __future__ import annotations

import os
import re
import socket
from base64 import b64decode
from ipaddress import ip_address
from typing import Any

from flower.utils import strtobool
from tornado.options import options
from tornado.web import RequestHandler

from celery_locks._logging import one_line

#: Flower's own switch: its control actions work without a login then.
SWITCH = "FLOWER_UNAUTHENTICATED_API"
#: Who asked, where Flower has no login.
UNAUTHENTICATED = "unauthenticated"
#: How much of a name is kept, in characters.
LONGEST_NAME = 200

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?)(?::[0-9]{0,5})?")


def release_refusal(handler: RequestHandler) -> str:
    """Return why this Flower releases nothing for this request, or an empty text if it does.

    It asks for what Flower's own control actions ask for. Without a login it also wants to be called by a name of its
    own: a page of another site that rebinds its name to this machine is same-origin for the browser, and has no other.
    """
    flower = handler.application.options  # type: ignore[attr-defined]
    if getattr(flower, "read_only", False):  # Flower 2.0 has no such option
        return "Flower is read-only"
    if flower.basic_auth or flower.auth:
        return ""
    if not _is_open():
        return f"this Flower has no login: set one up with --basic_auth or --auth, or allow anyone by {SWITCH}=true"
    given = handler.request.headers.get_list("Host")
    host = host_name(given[0]) if len(given) == 1 else None
    if host is None or not is_own_host(host, flower.address):
        named = shortened(", ".join(given)) or "(none)"
        remedy = "name it in --locks_hosts, or set up a login"
        return f"this Flower has no login and does not know the host {named}: {remedy}"
    return ""


def _is_open() -> bool:
    try:
        return bool(strtobool(os.environ.get(SWITCH) or "false"))
    except ValueError:
        return False


def is_own_host(host: str, address: str) -> bool:
    """Whether this host name can't be another site's: an IP address, this machine's name, or one that an option names.

    Args:
        host: As `host_name` returns it.
        address: What Flower's ``--address`` says.
    """
    own = {"localhost", *map(host_name, (socket.gethostname(), address, *options.locks_hosts))}
    return host in own or host.endswith(".localhost") or _is_ip_address(host)


def host_name(header: str) -> str | None:
    """Return the host of a ``Host`` header, without the port and in lower case; ``None`` if it is malformed."""
    found = _HOST.fullmatch(header.strip())
    if found is None:
        return None
    if found[1]:
        return found[1].lower() if _is_ip_address(found[1]) else None
    return found[2].lower()


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def asker(handler: RequestHandler) -> str:
    """Return the user that Flower has authenticated, as one line for the log and the history."""
    user: Any = handler.current_user
    if isinstance(user, str):  # by OAuth, from a signed cookie
        return shortened(user)
    if user and handler.application.options.basic_auth:  # type: ignore[attr-defined]
        # Flower has compared this header with its option. Without the option it reads none, and neither do we.
        credentials = handler.request.headers["Authorization"].split()[1]
        return shortened(b64decode(credentials).decode().partition(":")[0]) or "a user without a name"
    return UNAUTHENTICATED


def shortened(text: str, most: int = LONGEST_NAME) -> str:
    """Return the text as one line of bounded length."""
    return one_line(text if len(text) <= most else text[:most] + "…")
