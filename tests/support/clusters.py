"""Servers that stand together: a Redis Cluster, and a master with a replica that Sentinels watch over."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar

import redis

from celery_locks.testing.local import processes
from celery_locks.testing.nodes.ports import free_port
from tests.support.servers import Binary, RedisServer, default_binary
from tests.support.tls import Certificates
from tests.support.waiting import eventually

SLOTS = 16384
#: Seconds that servers are given to agree: the machine may be busy.
PATIENCE = 90.0
SERVICE = "locks"


S = TypeVar("S", bound="Servers")


class Servers(ABC):
    """Servers that belong together: started with a ``with`` block and ended with it, also where the start fails."""

    @abstractmethod
    def start(self: S) -> S: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self: S) -> S:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Cluster(Servers):
    """Three masters with a third of the slots each.

    Args:
        binary: What to run; the preferred one if not given.
        password: Of the default user.
        tls: Speak TLS with clients and with each other, with these certificates.
    """

    def __init__(
        self, binary: Binary | None = None, password: str | None = None, tls: Certificates | None = None
    ) -> None:
        self.binary = binary or default_binary()
        self.password = password
        self._certificates = tls
        self._options = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": "60000",  # nobody is declared dead for being slow
            "databases": "1",
            "save": '""',
            **(tls.settings if tls else {}),
        }
        self.masters = [self._server() for _ in range(3)]

    def _server(self) -> RedisServer:
        return RedisServer(
            self.binary, password=self.password, options=self._options, tls=self._certificates is not None
        )

    def start(self) -> Cluster:
        for master in self.masters:
            master.start()
        for number, master in enumerate(self.masters):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            self.call(master, "CLUSTER", "ADDSLOTS", *range(first, last + 1))
            self.call(master, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.call(master, "CLUSTER", "MEET", "127.0.0.1", self.masters[0].port)
        eventually(self._agree, PATIENCE, "the masters don't agree on their cluster", 0.05)
        return self

    def url(self, scheme: str = "redis", query: str = "") -> str:
        login = f":{self.password}@" if self.password else ""
        hosts = ",".join(f"127.0.0.1:{master.port}" for master in self.masters)
        return f"{scheme}+cluster://{login}{hosts}" + (f"/?{query}" if query else "")

    def call(self, master: RedisServer, *command: Any) -> Any:
        """What one of the masters answers."""
        with master.client() as client:
            return client.execute_command(*command)

    def owner(self, slot: int) -> RedisServer:
        """The master that serves a slot, as the first one sees it."""
        for first, last, place, *_ in self.slots(self.masters[0]):
            if first <= slot <= last:
                return next(master for master in self.masters if master.port == place[1])
        raise LookupError(slot)

    @contextmanager
    def replica_of(self, master: RedisServer) -> Iterator[RedisServer]:
        """A replica of one of the masters, with all of its data."""
        with self._server() as replica:
            for each in self.masters:
                self.call(replica, "CLUSTER", "MEET", "127.0.0.1", each.port)
            name = self._id(replica)
            # After a takeover the others believe no stranger.
            eventually(lambda: all(self._knows(each, name) for each in self.masters), PATIENCE, interval=0.05)
            eventually(lambda: self.call(replica, "CLUSTER", "REPLICATE", self._id(master)), PATIENCE, interval=0.05)
            eventually(
                lambda: self.call(replica, "INFO", "replication")["master_link_status"] == "up", PATIENCE, interval=0.02
            )
            yield replica

    def _knows(self, master: RedisServer, name: str) -> bool:
        lines = self._raw(master, "CLUSTER", "NODES").decode().splitlines()
        return any(line.startswith(name) and "handshake" not in line for line in lines)

    def slots(self, master: RedisServer) -> Any:
        return self._raw(master, "CLUSTER", "SLOTS")

    def _raw(self, master: RedisServer, *command: str) -> Any:
        """The answer as it came: what the library makes of some differs between releases."""
        # Who comes by TLS, and only they, are told of ports that speak it.
        by_tls = {"port": master.port, "ssl": True, **self._certificates.parameters} if self._certificates else {}
        where = by_tls or {"unix_socket_path": str(master.socket_path)}
        with redis.Redis(**where, password=self.password, protocol=2) as client:
            connection = client.connection_pool.make_connection()
            connection.send_command(*command)
            answer = connection.read_response()
            connection.disconnect()
            return answer

    def begin_move(self, slot: int) -> tuple[RedisServer, RedisServer]:
        """Begins to move a slot to the next master; returns from where, and to where."""
        source = self.owner(slot)
        target = self.masters[(self.masters.index(source) + 1) % 3]
        self.call(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        self.call(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))
        return source, target

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, most: int = 1000) -> int:
        """Moves keys of the slot; returns how many."""
        keys = self.call(source, "CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            login = ("AUTH", self.password) if self.password else ()
            self.call(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 20000, *login, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, target: RedisServer) -> None:
        """Tells all that the slot is the target's now."""
        for master in sorted(self.masters, key=lambda master: master is not target):
            self.call(master, "CLUSTER", "SETSLOT", slot, "NODE", self._id(target))

    def flush(self) -> None:
        for master in self.masters:
            self.call(master, "FLUSHALL")

    def keys(self) -> list[str]:
        return [key for master in self.masters for key in self.call(master, "KEYS", "*")]

    def _id(self, master: RedisServer) -> str:
        return str(self.call(master, "CLUSTER", "MYID"))

    def _agree(self) -> bool:
        for master in self.masters:
            with master.client() as client:
                info = client.execute_command("CLUSTER", "INFO")
                text = info if isinstance(info, str) else "".join(f"{name}:{value}\n" for name, value in info.items())
            if "cluster_state:ok" not in text or len(self.slots(master)) != 3:
                return False
        return True

    def close(self) -> None:
        for master in self.masters:
            master.close()


class Sentinels(Servers):
    """A master, a replica and three Sentinels.

    Args:
        binary: What to run; the preferred one if not given.
        password: Of the servers' default user.
        sentinel_password: Of the Sentinels' default user.
        tls: All of them speak TLS with clients and with each other, with these certificates.
    """

    def __init__(
        self,
        binary: Binary | None = None,
        password: str | None = None,
        sentinel_password: str | None = None,
        tls: Certificates | None = None,
    ) -> None:
        self.binary = binary or default_binary()
        self._certificates = tls
        self.password, self.sentinel_password = password, sentinel_password
        self.ports: list[int] = []
        self._stack = ExitStack()
        self._sentinels: list[subprocess.Popen[bytes]] = []
        #: One of each, that stays connected: who waits asks many times, and TLS is slow to begin.
        self._clients: dict[int, redis.Redis] = {}
        self.servers: list[RedisServer] = []

    def start(self) -> Sentinels:
        options = {"repl-diskless-sync-delay": "0", "save": '""', "repl-ping-replica-period": "1"}
        options |= {"masterauth": self.password} if self.password else {}
        options |= self._certificates.settings if self._certificates else {}
        master = self._server(options)
        replica = self._server({**options, "replicaof": f"127.0.0.1 {master.port}"})
        self.servers = [master, replica]
        eventually(lambda: self.info(replica)["master_link_status"] == "up", PATIENCE, "the replica gets no data", 0.02)
        for _ in range(3):
            self._start_sentinel(master.port)
        eventually(self._agree, PATIENCE, "the Sentinels don't agree", 0.05)
        return self

    def _server(self, options: Mapping[str, str]) -> RedisServer:
        tls = self._certificates is not None
        return self._stack.enter_context(RedisServer(self.binary, password=self.password, options=options, tls=tls))

    def url(self, scheme: str = "redis", db: int = 0, query: str = "") -> str:
        login = f":{self.password}@" if self.password else ""
        own = f"sentinel_password={self.sentinel_password}" if self.sentinel_password else ""
        more = "&".join(filter(None, (own, query)))
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"{scheme}+sentinel://{login}{hosts}/{SERVICE}/{db}" + (f"?{more}" if more else "")

    @property
    def master(self) -> RedisServer:
        """The one that most Sentinels take for the master."""
        ports = [self._master_port(port) for port in self.ports]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> RedisServer:
        return next(server for server in self.servers if server is not self.master)

    def info(self, server: RedisServer) -> Mapping[str, Any]:
        """What a server says of its replication."""
        with server.client() as client:
            said: Mapping[str, Any] = client.info("replication")
            return said

    def replicated(self) -> None:
        """Waits until the replica has all that the master has."""
        master, replica = self.master, self.replica

        def same() -> bool:
            there = self.info(replica)
            written = self.info(master)["master_repl_offset"]
            return bool(there["master_link_status"] == "up" and there["slave_repl_offset"] >= written)

        eventually(same, PATIENCE, "the replica does not catch up")

    def settled(self) -> None:
        """Waits until there is a master with a replica again, and all Sentinels say so."""

        def one_of_each() -> bool:
            master = self.master
            self.info(master)["connected_slaves"]  # it answers
            return (
                self.info(master)["role"] == "master"
                and self.info(master)["connected_slaves"] == 1
                and self.info(self.replica)["master_link_status"] == "up"
                and all(self._master_port(port) == master.port for port in self.ports)
                and self._agree()
            )

        eventually(one_of_each, PATIENCE, "there is no master with a replica", 0.05)

    def fail_over(self, by: Callable[[RedisServer], object] | None = None) -> RedisServer:
        """Makes the replica the master: by what is done to the master, or by order. Returns the new master."""
        old = self.master
        if by is None:
            self._order()
        else:
            by(old)
        eventually(lambda: self.master is not old, PATIENCE, "the Sentinels leave the master as it is", 0.05)
        new = self.master
        eventually(lambda: self.info(new)["role"] == "master", PATIENCE, "the replica is no master", 0.02)
        return new

    def _order(self) -> None:
        def accepted() -> bool:
            self._sentinel(self.ports[0]).execute_command("SENTINEL", "FAILOVER", SERVICE)
            return True

        eventually(accepted, PATIENCE, "the Sentinel refuses to fail over", 0.2)  # one is under way, or it just was

    def _start_sentinel(self, master_port: int) -> None:
        folder = processes.make_folder()
        self._stack.callback(processes.remove_folder, folder)
        port = free_port()
        lines = [f"port 0\ntls-port {port}" if self._certificates else f"port {port}"]
        lines += [
            f"bind 127.0.0.1\ndir {folder}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {master_port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 2000",
            f"sentinel failover-timeout {SERVICE} 4000",
        ]
        lines += [f"sentinel auth-pass {SERVICE} {self.password}"] if self.password else []
        if self.sentinel_password:
            lines += [f"requirepass {self.sentinel_password}", f"sentinel sentinel-pass {self.sentinel_password}"]
        if self._certificates:
            lines += [f"{name} {value}" for name, value in self._certificates.settings.items()]
        config = folder / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n")
        with (folder / "log").open("ab") as log:
            process = processes.start([self.binary.path, config, "--sentinel"], output=log, cwd=folder)
        self._sentinels.append(process)
        self.ports.append(port)

    def _sentinel(self, port: int) -> redis.Redis:
        if port not in self._clients:
            tls = {"ssl": True, **self._certificates.parameters} if self._certificates else {}
            self._clients[port] = redis.Redis(
                port=port, password=self.sentinel_password, decode_responses=True, socket_timeout=10, **tls
            )
        return self._clients[port]

    def _master_port(self, port: int) -> int:
        with suppress(redis.RedisError):
            answer: Any = self._sentinel(port).execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            return int(answer[1])
        return 0

    def _agree(self) -> bool:
        for port in self.ports:
            state: Any = self._sentinel(port).sentinel_master(SERVICE)
            if int(state["num-other-sentinels"]) != 2 or int(state["num-slaves"]) < 1 or state["flags"] != "master":
                return False
        return True

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        for sentinel in self._sentinels:
            processes.end(sentinel)
        self._stack.close()
