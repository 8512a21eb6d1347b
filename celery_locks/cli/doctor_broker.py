"""Checks of the broker by ``doctor``: whether it accepts messages, and whether workers consume the queues."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from kombu.transport import get_transport_cls

from celery_locks._addresses import ENCODE, addresses_in, is_ambiguous, login_of, mask
from celery_locks._logging import one_line
from celery_locks.cli.doctor_results import Finding, line_of, within
from celery_locks.cli.doctor_retries import check_retries
from celery_locks.stores.redis.remedies import code_of, missing_right, remedy_of
from celery_locks.tasks.messages.queues import bound_queues

#: How long connecting may take, and sending a message.
TIMEOUT_SECONDS = 5.0
#: How long workers have for an answer: first, and once more if one is missing.
ANSWER_SECONDS, LONGER_ANSWER_SECONDS = 1.0, 3.0
#: Seconds after which RabbitMQ deletes the throwaway queue itself, if this process dies.
QUEUE_EXPIRES_SECONDS = 60.0
#: Transports that are tried with a message, since it leaves nothing behind.
TRIED_TRANSPORTS = ("redis", "amqp", "memory", "filesystem")
#: Transports without remote control, or with remote control only within one process.
UNCONTROLLED_TRANSPORTS = ("memory", "filesystem", "sql")
#: Rights that a Celery worker needs on a Redis broker, in addition to the keys of its queues. All channels are allowed:
#: they keep no data, and a worker subscribes to patterns, which a right would have to name literally.
_REDIS_RIGHTS = "+@all -@dangerous -@scripting +evalsha +script|load +script|exists"
_REDIS_KEYS = ("_kombu*", "unacked*", "*.pidbox*")
#: A name that contains the id of the process that made it.
_NAME_OF_PROCESS = re.compile(r"(.*\.)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_broker(
    app: Any, tasks: Collection[Any] | None, dispatched: Mapping[str, Collection[str]] | None = None
) -> Iterator[Finding]:
    """Check that the broker answers, accepts messages, and has a consumer of each queue of locked tasks.

    Args:
        app: The app.
        tasks: The locked tasks; ``None`` if they can't be loaded.
        dispatched: The queues in which messages of dispatched tasks wait, with the keys reserved for these tasks.
    """
    connection, place = None, "broker_url"
    try:
        connection = app.connection_for_write()
        place = _place(app, connection)
        within(
            TIMEOUT_SECONDS + 1,
            lambda: connection.ensure_connection(max_retries=1, interval_start=0, timeout=TIMEOUT_SECONDS),
        )
        yield Finding("broker", "ok", f"reached at {place}")
        message = _check_message(app, connection)
        yield message
    except Exception as error:  # whatever the broker's client raises
        remedy = _remedy(app, connection, error) or _remedy_in_settings(app, connection, error)
        remedy = remedy or f"Start the broker, or set broker_url to its address: {place}"
        yield Finding("broker", "error", f"{error_text(app, connection, error)}. {remedy}")
        return
    finally:
        _close(connection)
    if message.status == "ok":  # otherwise workers can't be asked, either
        if tasks is None:
            yield Finding("consumers", "ok", "not known: the tasks can't be loaded")
        else:
            yield from check_consumers(app, tasks, dispatched or {})
            if tasks and not _not_asked(app):
                yield from check_retries(app)


def _close(connection: Any) -> None:
    """Close a connection. A connection that hangs is cut, since its client would wait for an answer."""
    with suppress(Exception):
        within(1.0, connection.collect)


def _kind(connection: Any) -> str:
    """Return the kind of a connection's broker; an empty text if its transport can't be loaded."""
    with suppress(Exception):
        return str(connection.get_transport_cls().driver_type)
    return ""


def _addresses(app: Any) -> list[str]:
    """Return the addresses in ``broker_url``."""
    value = app.conf.broker_write_url or app.conf.broker_url or ""
    return addresses_in(value) if isinstance(value, str) else list(value) or [""]


def _place(app: Any, connection: Any) -> str:
    """Return the address of the broker without passwords. Of several addresses return that of the connection."""
    addresses = _addresses(app)
    if addresses[0] and (len(addresses) == 1 or any(map(is_ambiguous, addresses))):
        return " or ".join(map(mask, addresses))
    return mask(connection.as_uri(include_password=True))  # with False, Kombu invents a password


def error_text(app: Any, connection: Any, error: BaseException) -> str:
    """Return an error as one line, with the error code if it is from a Redis server."""
    addresses, text = _addresses(app), line_of(error)
    if _may_quote(addresses, error):
        return f"broker_url, {' or '.join(map(mask, addresses))}, can't be read: {ENCODE}"
    code = code_of(error) if _kind(connection) == "redis" else ""
    return text if code in text else f"{code} {text}"


def _may_quote(addresses: list[str], error: BaseException) -> bool:
    """Return whether an error may quote a part of a password that was read as another part of the address."""
    passwords = [login_of(address).password for address in addresses]
    quotes = isinstance(error, ValueError) and any(passwords)  # Python quotes a malformed host or port
    return quotes or any(map(is_ambiguous, addresses)) or any(";" in each for each in passwords)  # Kombu splits there


def _remedy_in_settings(app: Any, connection: Any, error: BaseException) -> str:
    """Return the remedy for an error in the settings; an empty text for an error of the broker."""
    scheme = _addresses(app)[0].partition(":")[0]
    if isinstance(error, ImportError) or not _can_be_loaded(scheme):
        return f"Install the package that the transport {scheme} of broker_url needs, or set broker_url to another"
    if connection is None or isinstance(error, (TypeError, ValueError, LookupError)):
        return "Fix broker_url, and broker_transport_options"
    return ""


def _can_be_loaded(scheme: str) -> bool:
    """Return whether Kombu has the transport of a scheme, and its client is installed."""
    try:
        get_transport_cls(scheme.partition("+")[0])
    except Exception:  # whatever its module raises
        return False
    return True


# --- A message ---


def _check_message(app: Any, connection: Any) -> Finding:
    """Publish a message to a throwaway queue, and delete both."""
    kind = connection.transport.driver_type
    if kind not in TRIED_TRANSPORTS:
        return Finding("messages", "ok", f"not tried: a test would leave a queue behind on a broker of the kind {kind}")
    try:
        tried = within(TIMEOUT_SECONDS, lambda: _try_message(app, connection))
    except TimeoutError:
        remedy = _BLOCKED_RABBITMQ if kind == "amqp" else "See whether it hangs, and read its log"
        text = f"the broker did not accept a message within {TIMEOUT_SECONDS:g} s. {remedy}"
        return Finding("messages", "error", text)
    except Exception as error:  # whatever the broker's client raises
        remedy = _remedy(app, connection, error) or "See the broker's log"
        return Finding(
            "messages", "error", f"the broker refuses a message: {error_text(app, connection, error)}. {remedy}"
        )
    if not tried:
        return Finding("messages", "ok", "not tried: messages are written to another folder than they are read from")
    return Finding("messages", "ok", "the broker accepted a message, which was deleted")


def _try_message(app: Any, connection: Any) -> bool:
    """Return whether a message was sent. It is not sent if this process couldn't delete it.

    Raises:
        Exception: The broker's client raised it.
    """
    kind, channel = connection.transport.driver_type, connection.channel()
    if kind == "filesystem" and channel.data_folder_in != channel.data_folder_out:
        return False
    # A user has rights to names that begin like the site's own.
    name = f"{app.conf.task_default_queue}.locks-doctor.{secrets.token_hex(8)}"
    exchange = "" if kind == "filesystem" else name  # a binding would leave a file there
    expires = {"x-expires": round(QUEUE_EXPIRES_SECONDS * 1000)} if kind == "amqp" else {}
    try:
        if exchange:
            channel.exchange_declare(exchange, "direct", durable=False, auto_delete=True)
        channel.queue_declare(name, durable=False, exclusive=True, auto_delete=True, arguments=expires)
        if exchange:
            channel.queue_bind(name, exchange, name)
        message = channel.prepare_message("locks doctor", content_type="text/plain", content_encoding="utf-8")
        channel.basic_publish(message, exchange=exchange, routing_key=name)
        until = time.monotonic() + TIMEOUT_SECONDS
        while not channel.queue_purge(name) and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        if exchange and getattr(channel, "is_open", True):  # RabbitMQ deletes the queue of a channel that it closed
            channel.queue_delete(name)
            channel.exchange_delete(exchange)
    return True


_BLOCKED_RABBITMQ = (
    "RabbitMQ blocks publishers while it is low on memory or disk: rabbitmqctl status names the alarm. Free memory or "
    "disk there, or raise vm_memory_high_watermark or lower disk_free_limit"
)


def _remedy(app: Any, connection: Any, error: BaseException) -> str:
    kind, text = _kind(connection), str(error)
    if kind == "amqp" and ("ACCESS_REFUSED" in text or "access refused" in text.lower()):
        return (
            "Check user and password in broker_url, and allow this user to configure, write and read the queues and "
            f"their exchanges: rabbitmqctl set_permissions -p VHOST USER {_rabbit_rights(app)}"
        )
    if kind == "amqp" and "PRECONDITION_FAILED" in text:
        return "See the broker's policies and limits: rabbitmqctl list_policies, list_vhost_limits"
    if kind != "redis":
        return ""
    code = code_of(error)
    if code == "NOPERM":
        lacks, user, _ = missing_right(text)
        return f"{lacks[:1].upper()}{lacks[1:]}: ACL SETUSER {user} {_redis_rights(app)}"
    remedy = remedy_of(code)
    return remedy[:1].upper() + remedy[1:]


def _redis_rights(app: Any) -> str:
    """Return the rights that Celery needs on a Redis broker."""
    prefix = (app.conf.broker_transport_options or {}).get("global_keyprefix", "")
    # Names of keys begin with the names of queues. Priorities and ids are appended.
    queues = (re.sub(r"([*?[\]\\^])", r"\\\1", name) + "*" for name in [*_queue_names(app), _events(app)])
    replies = ["-".join("?" * length for length in (8, 4, 4, 4, 12)) + "*"] if _has_replies(app) else []
    keys = " ".join(f"~{prefix}{name}" for name in [*queues, *replies, *_REDIS_KEYS])
    return f"{_REDIS_RIGHTS} {keys} &*"


def _rabbit_rights(app: Any) -> str:
    """Return the patterns of the names that Celery configures, writes and reads in RabbitMQ, quoted for a shell."""
    begin = [*_queue_names(app), _events(app), "celery_delayed_"]
    exchanges = dict.fromkeys(queue.exchange.name for queue in app.amqp.queues.values() if queue.exchange)
    patterns = [f"{re.escape(name)}.*" for name in begin]
    patterns += [re.escape(name) for name in exchanges if name and not name.startswith(tuple(begin))]
    patterns += ["[0-9a-f-]{36}"] if _has_replies(app) else []
    ours = f"^({'|'.join(patterns)}|.*[.]pidbox"
    return " ".join(shlex.quote(pattern) for pattern in (f"{ours})$", f"{ours}|amq[.]default)$", f"{ours})$"))


def _queue_names(app: Any) -> list[str]:
    """Return the beginnings of the names of the app's queues, without the ids of processes."""
    for task in list(app.tasks.values()):
        _queue_of(app, task)  # adds queues that only routes name
    names = [app.conf.task_default_queue, *app.amqp.queues]
    return list(dict.fromkeys(match[1] if (match := _NAME_OF_PROCESS.fullmatch(name)) else name for name in names))


def _has_replies(app: Any) -> bool:
    """Return whether results are messages. Then each caller has a queue that is named by an id."""
    return str(app.conf.result_backend or "").startswith("rpc")


def _events(app: Any) -> str:
    """Return the name of the exchange of events. The names of the queues of events begin with it."""
    return str(app.conf.event_exchange)


# --- Consumers ---


def check_consumers(app: Any, tasks: Collection[Any], dispatched: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """Check that a worker consumes each queue that locked tasks are routed to, or were dispatched to.

    Args:
        app: The app.
        tasks: The locked tasks.
        dispatched: The queues in which messages of dispatched tasks wait, with the keys reserved for these tasks.
    """
    routed, unknown = _queues_of(app, tasks)
    yield from unknown
    queues = {queue: f"to which {task} is routed" for queue, task in routed.items()}
    for queue, keys in dispatched.items():
        tasks_have = f"{len(keys)} dispatched tasks have" if len(keys) > 1 else "a dispatched task has"
        queues[queue] = f"where {tasks_have} not started, such as that of {next(iter(keys))}"
    if not queues:
        if not unknown:
            yield Finding("consumers", "ok", "no task is locked")
        return
    names, option = one_line(", ".join(sorted(queues))), shlex.quote(one_line(",".join(sorted(queues))))
    if why := _not_asked(app):
        yield Finding("consumers", "ok", f"not known: {why}. Check yourself that workers consume {names}")
        return
    try:
        answered, consumed = _consumed(app, queues)
    except Exception as error:  # whatever the broker's client raises
        with app.connection_for_write() as connection:
            remedy = _remedy(app, connection, error) or "See the broker's log"
        yield Finding("consumers", "warning", f"workers can't be asked: {line_of(error)}. {remedy}")
        return
    if not answered:
        yield Finding(
            "consumers",
            "warning",
            f"no worker answers, so the locked tasks of {names} may not run. Start one: celery -A … worker -Q {option} "
            "(a worker of the solo pool answers only between its tasks)",
        )
        return
    missing = {queue: why for queue, why in queues.items() if queue not in consumed}
    for queue, why in sorted(missing.items()):
        yield Finding(
            "consumers",
            "warning",
            f"no worker that answers consumes the queue {one_line(queue)}, {why}. Start one: celery -A … worker -Q "
            f"{shlex.quote(one_line(queue))}",
        )
    if not missing:
        yield Finding("consumers", "ok", f"a worker consumes {names}")


def _not_asked(app: Any) -> str:
    """Return why workers can't be asked; an empty text if they can."""
    if not app.conf.worker_enable_remote_control:
        return "worker_enable_remote_control is off"
    with app.connection_for_write() as connection:
        transport = connection.transport
        if transport.driver_type in UNCONTROLLED_TRANSPORTS or "fanout" not in transport.implements.exchange_type:
            return f"workers can't be asked over a broker of the kind {transport.driver_type}"
    return ""


def _consumed(app: Any, queues: Collection[str]) -> tuple[bool, set[str]]:
    """Return whether any worker answers, and the queues that the answering workers consume."""
    answered, consumed = False, set[str]()
    for seconds in (ANSWER_SECONDS, LONGER_ANSWER_SECONDS):  # workers on a busy machine may be late
        connection = app.connection_for_write()
        try:
            inspect = app.control.inspect(timeout=seconds, connection=connection)
            workers = within(seconds + TIMEOUT_SECONDS, inspect.active_queues) or {}
        finally:
            _close(connection)
        answered = answered or bool(workers)
        consumed |= {queue["name"] for own in workers.values() for queue in own or ()}
        if consumed.issuperset(queues):
            break
    return answered, consumed


def _queues_of(app: Any, tasks: Collection[Any]) -> tuple[dict[str, str], list[Finding]]:
    """Return the queues that tasks are routed to, each with one task; and findings on tasks without a known queue."""
    queues, broadcasts, unknown = dict[str, str](), dict[str, list[str]](), dict[str, list[str]]()
    for name, task in sorted((str(task.name), task) for task in tasks):
        queue = _queue_of(app, task)
        if isinstance(queue, Exception):
            unknown.setdefault(line_of(queue).replace(name, "\0"), []).append(name)
        elif _NAME_OF_PROCESS.fullmatch(queue.name):
            broadcasts.setdefault(queue.alias or queue.exchange.name, []).append(name)
        else:
            queues.setdefault(str(queue.name), name)
    findings = [
        Finding(
            "consumers",
            "ok",
            f"not known: {_one_of(names)} is routed to the broadcast {broadcast}, for which each worker has a queue of "
            "its own",
        )
        for broadcast, names in broadcasts.items()
    ]
    for why, names in unknown.items():
        why = why.replace("\0", names[0])
        text = f"the queue of {_one_of(names)} is not known: {why}. See task_routes, task_queues and the task's queue"
        findings.append(Finding("consumers", "warning", text))
    return queues, findings


def _one_of(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _queue_of(app: Any, task: Any) -> Any:
    """Return the queue of a call without options, or the error because of which it is unknown."""
    try:
        options = app.amqp.router.route(dict(task._get_exec_options()), task.name, (), {}, task_type=task)
    except Exception as error:  # a router of the user may need arguments
        return error
    exchange, key = options.get("exchange"), options.get("routing_key")
    if exchange and key:  # these take precedence over the queue
        queues = bound_queues(app, getattr(exchange, "name", exchange), key)
        if len(queues) == 1:
            return queues[0]
    return options["queue"]
