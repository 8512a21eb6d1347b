"""The right to release a lock in Flower, and the name of the user who did."""

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

#: If Flower's own variable is true, its control actions work without a login.
OPEN_API_VARIABLE = "FLOWER_UNAUTHENTICATED_API"
#: The name of the user if Flower has no login.
UNAUTHENTICATED = "unauthenticated"
#: The longest name in the log and the history.
MOST_NAME_CHARACTERS = 200

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?)(?::[0-9]{0,5})?")


def release_refusal(handler: RequestHandler) -> str:
    """Return why this Flower refuses to release a lease for this request; an empty text if it does not refuse.

    A release needs the same rights as Flower's own control actions. Without a login the request must also use a host
    name of this Flower. Otherwise another site could bind its own name to this machine (DNS rebinding), so that the
    browser treats its page as the same origin.
    """
    flower = handler.application.options  # type: ignore[attr-defined]
    if getattr(flower, "read_only", False):  # Flower 2.0 lacks this option
        return "Flower is read-only"
    if flower.basic_auth or flower.auth:
        return ""
    if not _is_open():
        remedy = f"set one up with --basic_auth or --auth, or allow anyone by {OPEN_API_VARIABLE}=true"
        return f"this Flower has no login: {remedy}"
    given = handler.request.headers.get_list("Host")
    host = host_name(given[0]) if len(given) == 1 else None
    if host is None or not is_own_host(host, flower.address):
        named = shortened(", ".join(given)) or "(none)"
        remedy = "add it to --locks_hosts, or set up a login"
        return f"this Flower has no login and does not know the host {named}: {remedy}"
    return ""


def _is_open() -> bool:
    try:
        return bool(strtobool(os.environ.get(OPEN_API_VARIABLE) or "false"))
    except ValueError:
        return False


def is_own_host(host: str, address: str) -> bool:
    """Return whether the host can't be another site: an IP address, this machine's name, or a name in an option.

    Args:
        host: A host as `host_name` returns it.
        address: The value of Flower's ``--address``.
    """
    own = {"localhost", *map(host_name, (socket.gethostname(), address, *options.locks_hosts))}
    return host in own or host.endswith(".localhost") or _is_ip_address(host)


def host_name(header: str) -> str | None:
    """Return the host of a ``Host`` header without its port, in lower case; ``None`` if it is malformed."""
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


def user_of(handler: RequestHandler) -> str:
    """Return the user whom Flower has authenticated, as one line for the log and the history."""
    user: Any = handler.current_user
    if isinstance(user, str):  # OAuth, from a signed cookie
        return shortened(user)
    if user and handler.application.options.basic_auth:  # type: ignore[attr-defined]
        # Flower has compared this header with its option. It does not read the header without the option.
        credentials = handler.request.headers["Authorization"].split()[1]
        return shortened(b64decode(credentials).decode().partition(":")[0]) or "a user without a name"
    return UNAUTHENTICATED


def shortened(text: str, most: int = MOST_NAME_CHARACTERS) -> str:
    """Return the text as one line of bounded length."""
    return one_line(text if len(text) <= most else text[:most] + "…")
