"""The meaning of errors of a Redis or Valkey server, and their remedies."""

from __future__ import annotations

import re
from collections.abc import Iterator

from celery_locks._validation import DEFAULT_PREFIX

#: The commands that the store uses, as in an access control list. The order matters: @keyspace contains FLUSHALL, which
#: -@dangerous removes. INFO counts as dangerous in Redis, but only reads.
RIGHTS = (
    "+evalsha +script|load +@hash +@sortedset +@list +@string +@keyspace +time +ping +select +wait -@dangerous +info"
)
#: The keys of locks, with the default prefix.
KEYS = f"~{DEFAULT_PREFIX}:*"

#: The code of an error → its meaning and the remedy.
_REMEDIES = {
    "NOREPLICAS": (
        "the server refuses writes, since it has fewer replicas than min-replicas-to-write asks for. "
        "Attach replicas, or set min-replicas-to-write 0 on a server that has none"
    ),
    "OOM": (
        "the server's memory is full. Raise maxmemory, delete what fills it, or set locks_url to a server that keeps "
        "locks and nothing else"
    ),
    "READONLY": (
        "this server is a replica, and takes no writes. Give the address of its master, or let Sentinels name the "
        "master: redis+sentinel://"
    ),
    "MISCONF": (
        "the server refuses writes, since it can't save its data to disk. Free disk space or fix the rights on its "
        "folder, as its log asks for; or set stop-writes-on-bgsave-error no"
    ),
    "LOADING": "the server is loading its data. Wait until it has finished",
    "CLUSTERDOWN": (
        "the cluster does not serve all slots. Start the masters that are missing, and see redis-cli --cluster check"
    ),
    "MASTERDOWN": "this server is a replica that has lost its master. Start the master, and give its address",
    "MOVED": "this server belongs to a Redis Cluster. Write redis+cluster:// in the address",
    "BUSY": "a script blocks the server. SCRIPT KILL ends it",
    "DENIED": "the server is in protected mode. Set a password (requirepass) there, and write it in the address",
    "NOAUTH": "the server asks for a password. Write it in the address: redis://user:password@host",
    "WRONGPASS": "check user and password in the address; special characters are percent-encoded there",
    "MAXCLIENTS": "the server has no connection left. Raise maxclients there, or close connections",
}
#: The libraries' classes of errors whose text has no code.
_CLASSES = {
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "MaxConnectionsError": "MAXCLIENTS",
}
#: Codes that servers send. The other keys of `_REMEDIES` are for errors without a code.
_CODES = {*_REMEDIES, "NOPERM"} - {"MAXCLIENTS", "WRONGPASS"}
#: Redis before 7 has the code of a script's error within a text.
_CODE = re.compile(rf"(?:^|[\s:-])({'|'.join([*_REMEDIES, 'NOPERM'])})\b")
#: Texts of errors without a code.
_TEXTS = {
    "can't run this command": "NOPERM",
    "has no permissions to": "NOPERM",
    "No permissions to access": "NOPERM",
    "max number of clients": "MAXCLIENTS",
    "Authentication required": "NOAUTH",
    "already authenticated": "NOAUTH",  # the answer to HELLO
}
_COMMAND = re.compile(r"run the '([\w|-]+)' command")
_USER = re.compile(r"\bUser (\S+) has no permissions")


def code_of(error: BaseException) -> str:
    """Return the server's code of an error, such as ``NOREPLICAS``; an empty text if it has none.

    Args:
        error: The library's error. Its causes are searched, too.
    """
    for each in _causes(error):
        text = str(each)
        if found := _CODE.search(text):
            return found[1]
        for part, code in _TEXTS.items():
            if part in text:
                return code
        if code := _CLASSES.get(type(each).__name__, ""):
            return code
    return ""


def remedy_of(code: str) -> str:
    """Return the meaning and the remedy of a code, an empty text if there is none."""
    return _REMEDIES.get(code, "")


def explained(error: BaseException, rights: str, keys: str) -> str:
    """Return an error's text with the server's code, and the remedy.

    Args:
        error: The library's error.
        rights: The commands that the user needs, as in an access control list.
        keys: The keys that the user needs, in the same form.
    """
    code, text = code_of(error), str(error)
    shown = text if not code or code in text or code not in _CODES else f"{code} {text}"
    if code == "NOPERM":
        lacks, user, command = missing_right(text)
        if command and not _names(rights, command):
            rights = f"{rights} +{command}"
        remedy = f"{lacks}: by ACL SETUSER {user}, give it the keys {keys}, and allow this user {rights}"
    else:
        remedy = remedy_of(code)
    return f"{type(error).__name__}: {shown}{remedy and '; '}{remedy}"


def _names(rights: str, command: str) -> bool:
    """Return whether rights contain a command or a subcommand of it: Redis 6.2 reports the command only."""
    return any(right == f"+{command}" or right.startswith(f"+{command}|") for right in rights.split())


def missing_right(text: str) -> tuple[str, str, str]:
    """Return what a user lacks, the user's name, and the command that is not allowed, which is empty for keys.

    Args:
        text: The server's error.
    """
    command, user = _COMMAND.search(text), _USER.search(text)
    name = user[1] if user else "USER"
    if command is not None:
        return f"it lacks the command {command[1]}", name, command[1]
    kinds = {"channel": "it lacks a channel", " key": "it lacks a key"}
    return next((lacks for word, lacks in kinds.items() if word in text), "it lacks a command"), name, ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__
