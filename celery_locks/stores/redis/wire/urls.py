"""Addresses of Redis and Valkey: one server, Sentinels, nodes of a cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from celery_locks._addresses import ENCODE, UnreadableError, is_ambiguous, mask, reads_address
from celery_locks.errors import LockConfigError
from celery_locks.stores.redis.wire.client import REQUEST_TIMEOUT_SECONDS
from celery_locks.stores.redis.wire.driver import Driver, driver, driver_for

SENTINEL_PORT, SERVER_PORT = 26379, 6379
_TLS = ("rediss", "valkeys")
#: Parameters that the library does not know.
_OWN = ("client", "min_replicas", "connect_timeout", "request_timeout")
#: The library's error about a value of a parameter.
_WRONG_PARAMETER = re.compile(r"Invalid value for ['`](\w+)['`]")


#: The longest timeout, in seconds.
_LONGEST_TIMEOUT_SECONDS = 3_600.0


class Timeouts(NamedTuple):
    """The longest times to wait for a server, in seconds. A short lease or a short timeout of the caller reduces them.

    Attributes:
        connect: To connect.
        request: For the reply to a request.
    """

    connect: float = REQUEST_TIMEOUT_SECONDS
    request: float = REQUEST_TIMEOUT_SECONDS


DEFAULT_TIMEOUTS = Timeouts()


@dataclass(frozen=True)
class Address:
    """A parsed URL.

    Attributes:
        driver: The library to connect with.
        url: The URL for the library, with the first server only.
        masked: The whole URL without its passwords, for errors.
        topology: ``""`` for one server, ``"sentinel"``, ``"cluster"``.
        hosts: The servers, if there may be several.
        path: The path after the hosts.
        own: The parameters that the library does not know.
    """

    driver: Driver
    url: str
    masked: str
    topology: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    own: dict[str, str] = field(default_factory=dict)

    @property
    def min_replicas(self) -> int:
        return checked_replicas(self.own.get("min_replicas", "0"))

    @property
    def timeouts(self) -> Timeouts:
        return checked_timeouts(self.own.get("connect_timeout"), self.own.get("request_timeout"))

    def settings(self) -> dict[str, Any]:
        """Return the library's settings of a connection, without the server's address."""
        settings = self.driver.parse_url(self.url)
        for name in ("host", "port", "db"):
            settings.pop(name, None)
        return settings


@reads_address
def address(url: str) -> Address:
    """Parse a URL.

    Raises:
        LockConfigError: It can't be parsed, or a parameter is wrong.
    """
    if is_ambiguous(url):
        raise UnreadableError(ENCODE)
    scheme, _, rest = url.partition("://")
    base, _, topology = scheme.lower().partition("+")
    rest, own = _own_parameters(rest)
    if base not in _TLS:
        _refuse_tls(url, rest)
    chosen = driver(own["client"]) if "client" in own else driver_for(base)
    if topology in ("sentinel", "cluster"):
        made = _several_servers(chosen, base, topology, rest, mask(url), own)
    else:
        made = Address(chosen, library_url(f"{scheme}://{rest}", chosen), mask(url), own=own)
    try:
        made.settings()  # here, and not at the first connection
    except ValueError as error:
        wrong = _WRONG_PARAMETER.match(str(error))
        if wrong is None:
            raise
        raise UnreadableError(f"the parameter {wrong[1]} has a value of another kind") from None
    return made


@reads_address
def each_server(url: str, names: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Return the URLs of the independent servers in one URL. All have its user, password, database and parameters.

    Args:
        url: ``redlock://…``; or with the scheme of the servers, such as ``rediss+redlock://…``.
        names: Parameters that are not the servers'.

    Returns:
        The URLs, and the named parameters.

    Raises:
        LockConfigError: It can't be parsed, or has different users or passwords.
    """
    if is_ambiguous(url):
        raise UnreadableError(ENCODE)
    scheme, _, rest = url.partition("://")
    base = scheme.lower().partition("+")[0]
    before, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    left = urlencode([(name, value) for name, value in pairs if name not in names])
    servers, path, _ = _servers(before)
    login, hosts = _login_and_hosts(servers, SERVER_PORT, mask(url))
    tail = f"/{path}" + (f"?{left}" if left else "")
    base = "redis" if base == "redlock" else base
    return (
        [f"{base}://{login}{_in_url(host)}:{port}{tail}" for host, port in hosts],
        {name: value for name, value in pairs if name in names},
    )


def _several_servers(chosen: Driver, base: str, topology: str, rest: str, masked: str, own: dict[str, str]) -> Address:
    servers, path, query = _servers(rest)
    port = SENTINEL_PORT if topology == "sentinel" else SERVER_PORT
    login, hosts = _login_and_hosts(servers, port, masked)
    url = f"{base}://{login}{_in_url(hosts[0][0])}:{hosts[0][1]}/?{query}"
    return Address(chosen, library_url(url, chosen), masked, topology, tuple(hosts), path, own)


def _servers(rest: str) -> tuple[list[str], str, str]:
    """Return the servers, the path and the query, given the URL without its scheme."""
    # Passwords are percent-encoded, so neither "/" nor "," nor "@" is part of one.
    servers, slash, tail = rest.partition("/")
    if not slash:
        servers, mark, query = rest.partition("?")
        tail = mark + query
    path, _, query = tail.partition("?")
    return servers.replace(";", ",").split(","), path, query


def _login_and_hosts(servers: Sequence[str], port: int, masked: str) -> tuple[str, list[tuple[str, int]]]:
    logins, hosts = set[str](), list[tuple[str, int]]()
    for server in servers:
        login, at, place = server.rpartition("@")
        if at:
            logins.add(login)
        parts = urlsplit(f"//{place}")
        if not parts.hostname:
            raise UnreadableError("a host is missing")
        hosts.append((parts.hostname, parts.port or port))
    if logins and "@" not in servers[0]:  # a "," in the password: the text before it is no host
        raise UnreadableError(ENCODE)
    if len(logins) > 1:
        raise LockConfigError(f"{masked} names different users or passwords: all servers take the same")
    return (f"{logins.pop()}@" if logins else ""), hosts


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _own_parameters(rest: str) -> tuple[str, dict[str, str]]:
    """Return the URL for the library, and the parameters that the library does not know."""
    before, mark, query = rest.partition("?")
    if not mark:
        return rest, {}
    pairs = parse_qsl(query, keep_blank_values=True)
    own = {name: value for name, value in pairs if name in _OWN or name.startswith("sentinel_")}
    if not own:
        return rest, {}
    others = urlencode([(name, value) for name, value in pairs if name not in own])
    return before + (f"?{others}" if others else ""), own


def _refuse_tls(url: str, rest: str) -> None:
    """Refuse parameters of TLS. The library would do so at the first command only, without naming TLS."""
    names = sorted(name for name, _ in parse_qsl(rest.partition("?")[2]) if name.startswith("ssl_"))
    if names:
        raise LockConfigError(
            f"{mask(url)} has no TLS, and {', '.join(names)} for it: write rediss:// (valkeys://), or leave them out"
        )


def library_url(url: str, chosen: Driver) -> str:
    """Return the URL of one server in the form of the library."""
    scheme, _, rest = url.partition("://")
    scheme = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix"}.get(scheme.lower(), scheme.lower())
    if scheme == "unix":
        # Celery's name for the number of the database.
        rest = rest.replace("virtual_host=", "db=")
    if scheme == "rediss":
        # Celery writes CERT_REQUIRED where redis-py wants "required".
        for name, value in parse_qsl(urlsplit(url).query):
            if name == "ssl_cert_reqs":
                rest = rest.replace(f"ssl_cert_reqs={value}", f"ssl_cert_reqs={value.removeprefix('CERT_').lower()}")
    if chosen.name == "valkey":
        scheme = {"redis": "valkey", "rediss": "valkeys"}.get(scheme, scheme)
    return f"{scheme}://{rest}"


def checked_replicas(value: Any) -> int:
    """Return a checked value of ``min_replicas``.

    Raises:
        LockConfigError: It is not a whole number of 0 or more.
    """
    try:
        replicas = int(value)
    except (TypeError, ValueError):
        replicas = -1
    if replicas < 0 or isinstance(value, (bool, float)):
        raise LockConfigError(f"min_replicas={value!r} is not a number of replicas: give a whole number of 0 or more")
    return replicas


def checked_timeouts(connect: Any, request: Any) -> Timeouts:
    """Return checked timeouts: each is a number of seconds or its text, ``None`` for the default.

    Raises:
        LockConfigError: One is not a number of seconds above 0.
    """
    return Timeouts(_timeout("connect_timeout", connect), _timeout("request_timeout", request))


def _timeout(name: str, value: Any) -> float:
    if value is None:
        return REQUEST_TIMEOUT_SECONDS
    try:
        seconds = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT_SECONDS:
        raise LockConfigError(f"{name}={value} is not a timeout: give seconds above 0, such as {name}=2")
    return seconds
