"""Addresses of stores and brokers: their passwords, which are masked, and the store that they mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from celery_locks.errors import LockConfigError

T = TypeVar("T")

# --- The parts of an address; see `login_of` ---

#: The scheme precedes the authority, which ends at the first "/", "?" or "#".
_SCHEME = re.compile(r"\s*(?:sharded:)?([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_AUTHORITY = re.compile(r"[^/?#]*")
#: Hosts, each with a port or without. Up to five digits are taken for a port, and not for a password.
_HOST = r"(?:\[[\da-f:.]*(?:%[\w.]+)?\]|(?:[^\[\]@:%,;/?#：﹕]|%(?!3a))*)(?::\d{0,5}\s*)?"  # noqa: RUF001
_HOSTS = re.compile(rf"{_HOST}(?:[,;]{_HOST})*(?=[/?#]|\Z)", re.IGNORECASE)
#: A path, and parameters in which an "@" is a part of a value.
_PARAMETERS = re.compile(r"(?:/[^?#@:]*)?\?[a-z][a-z_]+=[^&#]*(?:&[a-z][a-z_]+=[^&#]*)*", re.IGNORECASE)
#: The end of the user's name. Python reads the wide characters as a colon, too.
_COLON = re.compile(":|%3a|[：﹕]", re.IGNORECASE)  # noqa: RUF001
#: Schemes whose addresses have a path and no host, or a name alone.
_OF_PATHS = ("sqlite", "sqla+sqlite", "db+sqlite", "unix", "redis+socket", "rediss+socket", "file", "filesystem")
_OF_NAMES = ("memory",)
#: Schemes of other addresses, which keys may contain: an "@" in the path is usual there.
_OF_PAGES = ("http", "https", "ws", "wss", "ftp", "s3", "gs", "file")
#: The schemes of stores and brokers.
_KNOWN = (
    r"(?:rediss?|valkeys?|postgresql|mysql|mariadb|sqlite|memory|unix|sharded|redlock|sentinel|(?:py)?amqps?)(?:\+\w+)?"
)
#: The text between two addresses: empty if one begins within another. No password is expected to contain an address.
_BETWEEN = re.compile(rf"([|;,]\s*|(?<![\w+.-]))(?=(?:{_KNOWN})://)", re.IGNORECASE)

#: A parameter's name, which may be percent-encoded.
_NAME = re.compile(r"[?&;#]([^=&;?#]*?)(?:=|%3d)", re.IGNORECASE)
#: Names of secrets: long words anywhere, short ones only at the end of a word. So compass and max_tokens are shown.
_SECRET = re.compile(
    r"password|passwd|passphrase|secret|credential|(?:(?<!com)(?<!by)pass|pwd|token|auth|creds?|(?:api|access)_?key)(?![a-z])",
    re.IGNORECASE,
)
#: The value of a secret. Its "&" may not be percent-encoded, so a piece without "=" that follows belongs to it.
_VALUE = re.compile(r"[^&]+(?:&[^=&]*(?=&|\Z))*")

#: A URL within a text, up to a space. A colon without a port after it may begin a password that contains spaces.
_URL = re.compile(
    r"\b[a-z][\w+.-]*://"
    r"(?:\S*@\S*|(?!\[[\da-f:.]*\])[^\s/?#@:]*:(?!\d*(?:[^\w\s@]|\s|\Z)).{1,200}?@\S*|\S*)",
    re.IGNORECASE | re.DOTALL,
)
#: Characters that end a sentence or a quotation, not a URL.
_PUNCTUATION = "'\"`<>(){},.;:!?…"


class UnreadableError(ValueError):
    """An address can't be read. The message is written here, and quotes nothing of the address."""


#: The end of an error for an address that can't be read.
ENCODE = (
    "write it as user:password@host:port, with digits as the port, and special characters in user and password as %40 "
    "and the like"
)


def reads_address(function: Callable[..., T]) -> Callable[..., T]:
    """Decorate a function that reads an address: its ``ValueError`` becomes a `LockConfigError` without secrets."""

    @wraps(function)
    def read(url: str, *args: Any) -> T:
        try:
            return function(url, *args)
        except LockConfigError:  # a ValueError too, whose message has no secrets
            raise
        except ValueError as error:
            # The message of a library, or of the error's cause, may quote a password that the library read as a port.
            why = error if isinstance(error, UnreadableError) else ENCODE
            unreadable = LockConfigError(f"the address of the lock store, {mask(url)}, can't be read: {why}")
        raise unreadable  # outside, so that the error has no context

    return read


def addresses_in(text: str) -> list[str]:
    """Return the addresses of a setting of Celery, which separates them by ";"."""
    return re.split(r";(?=[a-z][\w+.-]*://)", text, flags=re.IGNORECASE)


class Login(NamedTuple):
    """The user and the password in an address.

    Attributes:
        user: The user as it is written, with its colon.
        password: The password as it is written.
        begin: The index of the user.
        end: The index after the password: that of its "@", or the length of the address.
        clear: Whether libraries read the same user and password.
    """

    user: str
    password: str
    begin: int
    end: int
    clear: bool


def login_of(url: str) -> Login:
    """Return the user and the password of an address, which may be malformed.

    An address is clear if no other reading is likely:

    - The authority ends with hosts, each with a port of up to five digits or without. The login precedes their "@", if
      there is one.
    - No "@" follows the authority, except in parameters such as ``?client_name=app@box``.
    - The address of a file or a socket has no login if its path follows the scheme.

    Any other address may have a password that contains "/", "?", "#" or "@", or lack the "@" after its password. Its
    login ends at the last "@" that hosts follow, or at the end of the address. The password follows the first colon
    (or %3A) of a login. So ``redis://u:12/34@h`` has the password ``12/34``, and ``redis://u:hunter2`` has
    ``hunter2``, but ``redis://h:6379/0?client_name=app@box`` has none.
    """
    scheme = _SCHEME.match(url)
    begin, kind = (scheme.end(), scheme[1].lower()) if scheme else (0, "")
    authority = _AUTHORITY.match(url, begin)
    assert authority is not None
    stop = authority.end()
    if kind in _OF_NAMES or (kind in _OF_PATHS and url.startswith("/", begin)):
        return Login("", "", begin, begin, True)
    at = url.rfind("@", begin, stop)
    clear = _hosts_follow(url, max(at + 1, begin)) and (kind in _OF_PAGES or _has_no_login(url, begin, stop, kind))
    if clear:
        end = max(at, begin)
    elif kind in _OF_PAGES:
        end = stop
    else:
        at = url.rfind("@", begin)
        end = at if at >= 0 and _hosts_follow(url, at + 1) else len(url)
    colon = _COLON.search(url, begin, end)
    cut = colon.end() if colon else end
    return Login(url[begin:cut], url[cut:end], begin, end, clear)


def _hosts_follow(url: str, place: int) -> bool:
    return _HOSTS.match(url, place) is not None


def _has_no_login(url: str, begin: int, stop: int, kind: str) -> bool:
    """Return whether the text after the authority can't be a part of a login."""
    if url.find("@", stop) >= 0:
        return _PARAMETERS.fullmatch(url, stop) is not None
    path = url[stop:].partition("?")[0]
    # With a slash too many, or too few, the login is read as a path.
    return (begin < stop and kind != "") or _COLON.search(path) is None


def is_ambiguous(url: str) -> bool:
    """Return whether a library may read a part of the password as another part of the address, and print it."""
    login = login_of(url)
    return bool(login.password) and not login.clear


def mask(url: str) -> str:
    """Return an address without its passwords, for logs and errors. It may be malformed."""
    # Each second piece is the text between two addresses, which has nothing to mask.
    return "".join(piece if number % 2 else _mask_one(piece) for number, piece in enumerate(_BETWEEN.split(url)))


def _mask_one(url: str) -> str:
    login = login_of(url)
    if not login.password:
        return _mask_parameters(url)
    before, parameters = url[: login.end - len(login.password)], f"?{login.password}"
    if _mask_parameters(parameters) != parameters:  # the "@" may belong to a parameter, whose value continues
        return f"{before}***"
    return f"{before}***" + _mask_parameters(url[login.end :])


def _mask_parameters(text: str) -> str:
    shown, place = "", 0
    for name in _NAME.finditer(text):
        value = _VALUE.match(text, name.end())
        if name.start() >= place and value and _SECRET.search(unquote(name[1])):
            shown += f"{text[place : name.end()]}***"
            place = value.end()
    return shown + text[place:]


def mask_text(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    return _URL.sub(lambda url: _mask_in_text(url[0]), text) if "://" in text else text


def _mask_in_text(url: str) -> str:
    bare = url.rstrip(_PUNCTUATION if "[" in url else _PUNCTUATION + "]")
    return mask(bare) + url[len(bare) :]


# --- Which store an address means; see `place_of` ---

#: Schemes that mean the same kind of store as another.
_ALIASES = {"valkey": "redis", "valkeys": "rediss", "postgres": "postgresql", "mariadb": "mysql", "redlock": "redis"}
_PORTS = {"redis": 6379, "rediss": 6379, "postgresql": 5432, "mysql": 3306}
_SENTINEL_PORT = 26379
#: Names of the machine itself.
_LOCAL = ("", "127.0.0.1", "::1")


@reads_address
def place_of(url: str) -> str:
    """Return the place of a store: a text that is the same for all its addresses.

    It has neither user nor password nor options. Case, percent-encoding, default ports and databases, slashes at the
    end, and the order of parameters and of several hosts make no difference.
    """
    scheme, _, rest = url.strip().partition("://")
    kind, _, setup = scheme.lower().partition("+")
    setup = "redlock" if kind == "redlock" else setup if setup in ("sentinel", "cluster", "redlock", "socket") else ""
    kind = _ALIASES.get(kind, kind)
    before, _, query = rest.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if kind == "memory":
        return f"memory://{before}"
    if kind == "sqlite":
        return f"sqlite:///{os.path.realpath(unquote(before[1:]))}"
    if kind == "unix" or setup == "socket":
        number = parameters.get("db", parameters.get("virtual_host", "0"))
        return f"unix://{os.path.realpath(unquote(before))}?db={_database(number)}"
    servers, _, path = before.partition("/")
    port = _SENTINEL_PORT if setup == "sentinel" else _PORTS.get(kind, 0)
    hosts = ",".join(sorted(_host(server, port) for server in servers.replace(";", ",").split(",")))
    parts = [unquote(part) for part in path.split("/") if part]
    if kind in ("redis", "rediss"):
        service = parts[:1] if setup == "sentinel" else []
        number = parameters.get("db") or "".join(parts[len(service) :]) or "0"
        parts = [*service, *([] if setup == "cluster" else [_database(number)])]
    prefix = parameters.get("table_prefix", "celery_locks_")
    own = f"?table_prefix={prefix}" if kind in ("postgresql", "mysql") and prefix != "celery_locks_" else ""
    return f"{kind}{setup and '+'}{setup}://{hosts}/{'/'.join(parts)}{own}"


def _database(number: str) -> str:
    """Return the number of a database as redis-py reads it: 0 for any other text."""
    return str(int(number)) if number.isdecimal() else "0"


def _host(server: str, default: int) -> str:
    """Return a host, with its port unless that is the default one."""
    parts = urlsplit(f"//{server.rpartition('@')[2]}")
    host = unquote(parts.hostname or "").lower().rstrip(".")
    with suppress(ValueError):
        host = str(ip_address(host))
    host = "localhost" if host in _LOCAL else f"[{host}]" if ":" in host else host
    return host if (parts.port or default) == default else f"{host}:{parts.port}"
