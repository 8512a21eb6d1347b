"""Verrou, the locks of Node's users (npm ``@verrou/core`` with ioredis), in a Node process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

#: Where npm installs it; git ignores it.
FOLDER = Path(__file__).parents[1] / "node"


def start(url: str, stack: ExitStack) -> Callable[[float], float] | None:
    """What gives its pairs a second, or nothing where Node or npm's packages can't be had (said on stderr)."""
    node = shutil.which("node")
    if node is None or not _installed():
        print("Verrou is not measured: Node, npm or its packages can't be had here.", file=sys.stderr)
        return None
    command = [node, str(FOLDER / "verrou.mjs"), url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    stack.callback(process.wait)
    stack.callback(process.kill)

    def rate(seconds: float) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return rate


def _installed() -> bool:
    if (FOLDER / "node_modules").is_dir():
        return True
    npm = shutil.which("npm")
    command = [npm or "", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(FOLDER)]
    return npm is not None and subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
