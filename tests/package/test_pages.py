"""The code of the documentation's pages, pasted and typed by a reader who has the built wheel and what a page installs.

How a page is written for that is described in ``transcript.py``. Besides:

- Python without a file's name goes into one file, in the order of the page, and is run at its end. A comment behind a
  ``print(…)`` is what that prints.
- An app whose broker is a server that the page needs gets a worker, which must become ready.
- A page of ``docs/how-to`` names what it imports in a ``pip install``, and each server on ``localhost`` as "a Redis
  server at `localhost:6379`". The server is started, and its port replaced.
- A page that begins with "This page continues [Title](page.md)" has a reader with all files and packages of that page.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.package import environments, transcript
from tests.package.transcript import Command, File, Reader
from tests.support import pages
from tests.support.celery_worker import ROOT
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import RedisServer
from tests.support.sql_servers import PostgresServer

DOCS = ROOT / "docs"
#: The file of Python that a page gives no name.
UNNAMED = "page.py"
#: What the readers of the how-to pages installed before; the first of these pages says so.
BEFORE = {"celery", "celery_locks", "kombu"}
#: What an extra of ours brings for a page to import.
BY_EXTRAS = {"celery-locks[pytest-celery]": {"pytest_celery", "pytest_docker_tools"}}
_ADDRESS = re.compile(r"\b(?P<scheme>\w+)://(?:[^\s\"'/]*@)?localhost\b(?::(?P<port>\d+))?")
_LIKE_PYTHON = re.compile(r"^(?:>>> |(?:from|import|def|class|with|@\w+|\w+ =) ?)", re.MULTILINE)
_CONTINUES = re.compile(r"^This page continues \[[^]]+\]\((?P<page>[\w-]+\.md)\)", re.MULTILINE)
_OF_SERVERS = {"redis": "Redis", "valkey": "Redis", "postgresql": "PostgreSQL", "amqp": "RabbitMQ"}


def files(text: str) -> dict[str, str]:
    """The files that a page has its reader write, as they are at its end."""
    found: dict[str, str] = {}
    for _, step in transcript.steps(text, UNNAMED):
        if isinstance(step, File):
            found[step.name] = (found.get(step.name, "") if step.continued else "") + step.text
    return found


def page_before(page: Path) -> str:
    """Return the text of the page that a page continues; empty for one that stands alone."""
    found = _CONTINUES.search(page.read_text())
    return (page.parent / found["page"]).read_text() if found else ""


def has_steps(page: Path) -> bool:
    return any(True for _ in transcript.steps(page.read_text(), UNNAMED))


#: It has a test that looks closer.
STORE = DOCS / "how-to" / "writing-a-store.md"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
#: The tutorial has a test of its own. The commands on other pages need a clone.
PAGES = [page for page in HOW_TO if has_steps(page) and page != STORE]
PAGES += [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if page.parent.name not in ("how-to", "tutorial") and "\n```python" in page.read_text()
]


def page_id(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first one makes the environment
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_code_of_a_page_runs_as_printed(
    page: Path, readers_venv: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    follow(page, readers_venv, tmp_path, request)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_store_of_the_how_to_passes_the_compliance_suite(
    readers_venv: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    printed = follow(STORE, readers_venv, tmp_path, request)["pytest -q test_file_store.py"]
    passed, skipped = re.search(r"(\d+) passed, (\d+) skipped", printed).groups()  # type: ignore[union-attr]
    assert int(passed) >= 45
    assert int(skipped) < 110


def follow(page: Path, venv: Path, folder: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """Does what a page says, with the servers that it needs; returns what the commands printed."""
    text, before = page.read_text(), page_before(page)
    ports = {port: start(kind, text, request) for port, kind in transcript.servers(text).items()}
    (text,) = transcript.with_free_ports([text], ports)
    if transcript.installed(before + text) & BY_EXTRAS.keys():
        environments.compile_packages(venv)
    with Reader(folder, environments.variables(venv), unnamed=UNNAMED) as reader:
        for name, code in files(before).items():
            reader.follow_step(page.name, File(name, code))
        reader.follow(page.name, text)
        for name, code in files(text).items():
            for step in uses(name, code, text):
                reader.follow_step(f"{page.name}, {name}", step)
        reader.finish()
    return reader.printed


def uses(name: str, code: str, page: str) -> Iterator[Command]:
    """What is done with a file that the page itself does nothing with."""
    module = name.removesuffix(".py").replace("/", ".")
    if not name.endswith(".py") or f"-A {module} worker" in page or "pytest" in code:
        return
    if "Celery(" in code and transcript.servers(page):
        worker = f"celery -A {module} worker --pool solo --loglevel INFO"
        yield Command("a worker's terminal", worker, ["… ready."], True)
    elif name != UNNAMED and name not in page.replace(f"`{name}`", ""):
        yield Command(transcript.FIRST, f"python -c 'import {module}'", [], False)


# --- Servers ---


def start(kind: str, page: str, request: pytest.FixtureRequest) -> int:
    """Starts a server for the test; returns its port."""
    if kind == "Redis":
        redis: RedisServer = request.getfixturevalue("start_redis")()
        return redis.port
    if kind == "RabbitMQ":
        rabbit: RabbitServer = request.getfixturevalue("rabbit_server")
        return int(rabbit.container.port)
    postgres: PostgresServer = request.getfixturevalue("postgresql_server")
    for address in sorted(set(re.findall(r"postgresql://[^\s\"'?]+@localhost:\d+/\w+", page))):
        prepare(postgres, address)
    return postgres.port


def prepare(server: PostgresServer, address: str) -> None:
    """Makes the user and the database that an address on the page names."""
    import psycopg
    from psycopg import sql

    parts = urlsplit(address)
    user, database = sql.Identifier(parts.username or ""), sql.Identifier(parts.path.strip("/"))
    with psycopg.connect(server.url(), autocommit=True) as db:
        db.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(database))
        db.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(user))
        db.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(user, sql.Literal(parts.password)))
        db.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, user))


# --- What a page must say ---


def unsaid(text: str, before: str = "") -> Iterator[str]:
    """Yield what a reader of a page needs, and neither this page nor the page before names."""
    for fence in pages.fences(text):
        if fence.language in ("bash", "sh", "shell", "zsh", "pycon"):
            yield f"line {fence.line}: {fence.language}: commands that are typed are `console`"
        if fence.language in ("", "text") and _LIKE_PYTHON.search(fence.text) and not fence.not_run:
            yield f"line {fence.line}: code that is pasted is `python`, also where it is <!-- not run: why -->"
    for match in re.finditer(r"^[ \t]+```\w", text, re.MULTILINE):
        yield f"line {text.count(chr(10), 0, match.start()) + 1}: an indented block is not followed"
    named = transcript.servers(text)
    for name, code in files(text).items():
        for match in _ADDRESS.finditer(code):
            if named.get(match["port"] or "") != _OF_SERVERS.get(match["scheme"], "?"):
                yield f"{name} uses {match[0]}: say which server is at `localhost:PORT`"
    installed = transcript.installed(text) | transcript.installed(before)
    packages = {re.split(r"\W", one)[0] for one in installed} | BEFORE | set(sys.stdlib_module_names)
    packages.update(*(BY_EXTRAS.get(one, ()) for one in installed))
    own = {name.partition(".")[0].partition("/")[0] for name in files(before) | files(text)}
    for name, code in files(text).items():
        if name.endswith(".py"):
            yield from (f"{name} imports {one}: name it in a pip install" for one in imports(code) - packages - own)


def imports(code: str) -> set[str]:
    """The packages that code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return {name.partition(".")[0] for name in found}


@pytest.mark.parametrize("page", HOW_TO, ids=page_id)
def test_a_page_states_what_its_code_needs(page: Path) -> None:
    assert list(unsaid(page.read_text(), page_before(page))) == []
