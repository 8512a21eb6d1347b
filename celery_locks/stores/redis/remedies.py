"""What an error of a Redis or Valkey server means for locks, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from celery_locks._validation import DEFAULT_PREFIX

#: The commands that scripts and waits use, as an access control list names them. The order matters: @keyspace holds
#: FLUSHALL, which -@dangerous takes away; INFO is dangerous to Redis, and only reads.
RIGHTS = (
    "+evalsha +script|load +@hash +@sortedset +@list +@string +@keyspace +time +ping +select +wait -@dangerous +info"
)
#: The keys of locks, with the default prefix.
KEYS = f"~{DEFAULT_PREFIX}:*"

#: The code of an error → what it means and what to do.
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
#: The classes of the libraries whose text has lost its code.
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
#: Codes that servers send. The others are ours, for errors without a code.
_CODES = {*_REMEDIES, "NOPERM"} - {"MAXCLIENTS", "WRONGPASS"}
#: A server older than Redis 7 writes the code of an error in a script within a text.
_CODE = re.compile(rf"(?:^|[\s:-])({'|'.join([*_REMEDIES, 'NOPERM'])})\b")
#: What servers and libraries answer without a code.
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
    """Return the server's code of an error, such as ``NOREPLICAS``; an empty text where it has none.

    Args:
        error: Of the library. What caused it is looked at, too.
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
    """Return what a code of `code_of` means and what to do; an empty text where nothing is known."""
    return _REMEDIES.get(code, "")


def explained(error: BaseException, rights: str, keys: str) -> str:
    """Return what happened, with the server's own code, and then what to do.

    Args:
        error: Of the library.
        rights: The commands that the user needs, as an access control list names them.
        keys: The keys that it needs, in the same way.
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
    """Return whether rights name a command, or a subcommand of it: Redis 6.2 reports the command alone."""
    return any(right == f"+{command}" or right.startswith(f"+{command}|") for right in rights.split())


def missing_right(text: str) -> tuple[str, str, str]:
    """Return what a user lacks, its name, and the command that it may not run; the last is empty for keys.

    Args:
        text: What the server answered.
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
