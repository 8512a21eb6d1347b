"""The store under test: a server and its replica behind a proxy, all to be broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from tests.chaos.history import History, now
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


class Store:
    """Workers know it by `url`, which stays.

    Args:
        history: Is told when the store may have forgotten something.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._stack = ExitStack()
        soon = {"repl-diskless-sync-delay": "0"}  # else a replica waits 5 s for others to copy from the same image
        servers = [self._stack.enter_context(RedisServer(appendonly=True, options=soon)) for _ in range(2)]
        self.server, self.replica = servers
        self.proxy = self._stack.enter_context(Proxy(self.server.port))
        self.url = self.server.url(port=self.proxy.port)
        self._follow()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def forgets(self, why: str) -> Iterator[None]:
        """What happens within may cost the store some of its data."""
        begin = now()
        try:
            yield
        finally:
            self._history.write("loss", at=begin, until=now(), reason=why)

    def restart(self, pause: Callable[[], object], *, keep_data: bool) -> None:
        """Kills the server and starts it again, after a pause."""
        if keep_data:  # every write is on disk before it is answered
            self.server.kill()
            pause()
            self.server.start()
            return
        with self.forgets("restart without data"):
            self.server.kill()
            pause()
            self.server.forget_data()
            self.server.start()

    def flush_all(self) -> None:
        with self.forgets("flush all"):
            self._ask("FLUSHALL")

    def flush_scripts(self) -> None:
        self._ask("SCRIPT", "FLUSH")

    def kill_clients(self) -> None:
        self._ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def pause_clients(self, seconds: float) -> None:
        """Nobody is answered for so long."""
        self._ask("CLIENT", "PAUSE", str(round(seconds * 1000)), "ALL")

    def fail_over(self, pause: Callable[[], object], *, kill: bool) -> None:
        """The replica becomes the server, and the other way round.

        Args:
            pause: Between the end of the one and the beginning of the other.
            kill: Whether the server dies before; else both are alive meanwhile.
        """
        old, new = self.server, self.replica
        with self.forgets("failover"):
            if kill:
                old.kill()
            pause()
            with new.client() as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            self.proxy.target = new.port
            if kill:
                old.start()
            self.server, self.replica = new, old
            self._follow()  # from here on it takes no writes, whoever is connected to it
            self.proxy.cut()

    def replicates(self) -> bool:
        """Whether the replica is up to date, but for what is under way."""
        with self.replica.client() as client:
            return bool(client.info("replication")["master_link_status"] == "up")

    def await_replica(self) -> None:
        eventually(self.replicates, 30, "the replica doesn't come up to date", 0.05)

    def _follow(self) -> None:
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", str(self.server.port))

    def _ask(self, *command: str) -> None:
        with self.server.client() as client:
            client.execute_command(*command)
