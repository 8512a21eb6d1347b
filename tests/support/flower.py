"""Real Flowers, in processes of their own, and the browser that looks at them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from celery_locks.testing.local import processes
from celery_locks.testing.nodes.ports import free_port
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually

#: Names a browser, and no other will do.
BROWSER_VARIABLE = "CELERY_LOCKS_TEST_BROWSER"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Keys that break HTML, addresses, quoting, lines and directions.
ODD_KEYS = (
    "<img src=x onerror=hacked()>",
    "\"><script>hacked()</script>'",
    "a/b/../c?x=1&y=2#z",
    "100%25 %2F + ;",
    "käse🧀 日本語",
    "two\r\nlines\tand\x01more",
    "\u202ereversed\u202c {braces}}",
    "javascript:hacked()",
    "&lt;b&gt; &amp;",
)
#: ``celery`` without this package: it can be imported no more.
_WITHOUT = "import sys; sys.modules['celery_locks'] = None; from celery.__main__ import main; sys.exit(main())"


def browser() -> str | None:
    """The path of a Chromium, ``None`` when this machine has none."""
    named = os.environ.get(BROWSER_VARIABLE)
    return named or next(filter(None, map(shutil.which, _BROWSERS)), None)


@dataclass(frozen=True)
class Answer:
    """What Flower answered."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None


class Flower:
    """A ``celery -A app flower``, which serves when the constructor returns.

    Args:
        app: What ``celery -A`` takes.
        arguments: Options of Flower.
        env: Variables beside those of the tests.
        plugin: Whether it has this package.
        ready: An address that answers when it serves.
        timeout: Seconds within which it must serve.
    """

    def __init__(
        self,
        app: str,
        arguments: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        plugin: bool = True,
        ready: str = "/healthcheck",
        timeout: float = 60,
    ) -> None:
        self.folder = processes.make_folder()
        self.log_file = self.folder / "log"
        start = ["-m", "celery"] if plugin else ["-c", _WITHOUT]
        self._argv = [sys.executable, *start, "-A", app, "flower", "--address=127.0.0.1", *arguments]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(env or {})}
        try:
            for _ in range(5):  # another may be faster and take the port
                self.port = free_port()
                if self._serves(ready, timeout):
                    return
            raise AssertionError(f"Flower does not serve:\n{self.log()[-4000:]}")
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text(errors="replace")

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Asks for an address, and follows no redirection."""
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, data: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """Sends JSON."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        return self.ask("POST", path, json.dumps(data).encode(), headers)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request."""
        request = urllib.request.Request(self.url + path, body, dict(headers or {}), method=method)
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=60) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read().decode())

    def stop(self, timeout: float = 30) -> int:
        """Ends it in good order; returns its exit status."""
        return processes.end(self._process, grace=timeout)

    def close(self) -> None:
        """Kills what is left of it, and removes its log."""
        processes.end(self._process)
        processes.remove_folder(self.folder)

    def _serves(self, ready: str, timeout: float) -> bool:
        with self.log_file.open("wb") as log:
            argv = [*self._argv, f"--port={self.port}"]
            self._process = processes.start(argv, output=log, env=self._env, cwd=self.folder)

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return self.get(ready).status < 500
            return False

        eventually(lambda: not self.running or answers(), timeout, f"Flower does not serve:\n{self.log()}", 0.05)
        if self.running:
            return True
        if "Address already in use" in self.log():
            return False
        raise AssertionError(f"Flower ended:\n{self.log()[-4000:]}")

    def __enter__(self) -> Flower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.log_file.exists():
            print(f"--- Log of Flower:\n{self.log()[-8000:]}", file=sys.stderr)  # pytest shows it with the failure
        self.close()


def killed_holder(url: str, key: str, ttl: float) -> subprocess.Popen[bytes]:
    """A process that holds a key, to be killed: its lease then ends by itself."""
    code = (
        "import sys, time; from celery_locks import Locks; url, key, ttl = sys.argv[1:]\n"
        "Locks(url).lock(key, ttl=float(ttl)).acquire(); time.sleep(600)"
    )
    argv: list[str | Path] = [sys.executable, "-c", code, url, key, str(ttl)]
    return processes.start(argv, output=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
