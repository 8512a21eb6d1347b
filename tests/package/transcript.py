"""Pages that are followed step by step.

How a page is written so that it can be followed:

- A block with ``title="tasks.py"`` is a file: it is written, or written anew, when the reader comes to it. So is a
  block below a paragraph that ends with "`tasks.py`:", since GitHub and package indexes show no titles; "`tasks.py`,
  continued:" writes it below what the file holds. Python that begins indented continues the block before it.
- Python without a file's name is an error in the tutorial and in the README: nothing would tell the reader where it
  goes. On the other pages all such blocks are one file, run at the end of the page; see ``run_page_code.py``.
- A block ``console``: lines with ``$ `` are typed, what stands below such a line is what it prints. A line that ends
  with a backslash goes on in the next, which begins with ``> ``. A command must end well (status 0), in time;
  with ``# fails`` at its end it must not.
- Where nothing is shown below a command, what it prints is not looked at. Where something is, all of it is: a line
  ``...`` stands for any lines, ``...`` or ``…`` within a line for any text. A UUID, a date, a time of day, a number
  of four digits or more, one with a decimal point and two blanks or more stand for any other of their kind.
- A block ``console title="Terminal 2"`` is another terminal, with a shell of its own in the same folder (so it is to
  activate the virtual environment itself). So is a block below a paragraph that ends like "in a second terminal:".
  Its last command goes on: the page goes on when what is shown below it has been printed (a worker's ``ready.``);
  other lines may come before, between and after. Without a title it is the first terminal, where every command ends.
- Such a block without a ``$ `` line shows what comes next in that terminal, among others: it is waited for.
- A line ``^C`` is Ctrl-C in that terminal. What still runs after the last page gets one, the newest terminal first;
  all must end by it.
- A line ``<!-- not run: why -->`` above a block makes it an illustration. Each other block is followed.
- Ports that a page names (``localhost:5555``, ``127.0.0.1:5555``, ``--port=5555``, ``--port 5555``) are replaced by
  free ones, wherever they stand in that way. A server's port is always named, also where it has a default.
- A page that needs a server says so: "a Redis or Valkey server at `localhost:6379`". The test starts it. The tutorial
  needs none.
- Processes are killed by their ids (``kill -9 "$(cat worker.pid)"``), never by name: other tests run alongside.
- ``pip install celery-locks`` installs the wheel that has just been built.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from celery_locks.testing.nodes.ports import free_port
from tests.package import expected_output
from tests.package.terminal import Terminal
from tests.support.pages import Fence, fences
from tests.support.waiting import eventually

#: Seconds for a command, and for what a command that goes on is to print: the machine may be busy, and kombu 5.5 looks
#: for messages of dead workers every 100 s.
PATIENCE = 150.0
FIRST = "Terminal 1"
#: What a command may say of itself, as a comment.
FAILS = re.compile(r"\s+# fails\s*$")
_PORT = re.compile(r"(?P<before>(?:localhost|127\.0\.0\.1):|--port[= ]|_port = )(?P<port>\d{2,5})\b")
#: How a page says, to its readers and here, which server it needs, and where.
_SERVER = re.compile(r"\b(?P<kind>Redis|PostgreSQL|RabbitMQ)\b[^.`]*\bat `localhost:(?P<port>\d+)`")
#: Types what a page has of Python without a file's name, and holds what it prints against its comments.
RUN_PAGE_CODE = Path(__file__).with_name("run_page_code.py")


@dataclass(frozen=True)
class File:
    """A file that the reader writes.

    Attributes:
        name: Its path, from the reader's folder.
        text: What is written.
        continued: Whether it goes below what the file holds.
    """

    name: str
    text: str
    continued: bool = False


@dataclass(frozen=True)
class Command:
    """What is typed; with no text, what comes next is waited for.

    Attributes:
        terminal: Where.
        text: The command, without the prompt.
        shown: The lines that the page shows below it.
        goes_on: Whether it goes on while the page does.
    """

    terminal: str
    text: str
    shown: list[str]
    goes_on: bool


@dataclass(frozen=True)
class CtrlC:
    """Ends what goes on in a terminal."""

    terminal: str


Step = File | Command | CtrlC


def steps(page: str, unnamed: str = "") -> Iterator[tuple[int, Step]]:
    """What a reader does, in order, each with the line of its block.

    Args:
        page: Its text.
        unnamed: The file that Python without a file's name goes to, at the lines that it has on the page, to be run at
            the end. Without one, such Python is an error.

    Raises:
        AssertionError: A block doesn't say where it goes.
    """
    script, name = "", ""
    for fence in fences(page):
        if fence.not_run:
            continue
        if fence.language == "console":
            for step in _typed(fence):
                yield fence.line, step
            continue
        # Code that begins indented is more of the class or function above it.
        indented = fence.language == "python" and fence.text[:1] == " "
        name = name if indented else fence.title
        if name:
            yield fence.line, File(name, fence.text, fence.continued or indented)
        elif fence.language == "python":
            assert unnamed, f'line {fence.line}: Python without title="name.py": where does it go?'
            script += "\n" * (fence.line - script.count("\n")) + fence.text
    if script:
        yield 0, File(unnamed, script)
        yield 0, Command(FIRST, f"python3 {RUN_PAGE_CODE} {unnamed}", [], False)


def _typed(fence: Fence) -> Iterator[Step]:
    terminal = fence.title or FIRST
    commands: list[Command | CtrlC] = []
    for line in fence.text.splitlines():
        last = commands[-1] if commands else None
        if line.startswith("$ "):
            commands.append(Command(terminal, line[2:], [], False))
        elif line.strip() == "^C":
            commands.append(CtrlC(terminal))
        elif isinstance(last, Command) and last.text.endswith("\\") and not last.shown:
            commands[-1] = Command(terminal, f"{last.text}\n{line.removeprefix('> ')}", [], False)
        elif isinstance(last, Command):
            last.shown.append(line)
        else:
            commands.append(Command(terminal, "", [line], True))
    last = commands[-1] if commands else None
    if fence.title and isinstance(last, Command):
        commands[-1] = Command(terminal, last.text, last.shown, True)
    yield from commands


def with_free_ports(pages: Sequence[str], served: Mapping[str, int] | None = None) -> list[str]:
    """Return the pages with their ports replaced. Each port is replaced by the same one on every page.

    Args:
        pages: Their texts.
        served: Ports of running servers, by the ports on the pages. All others are replaced by free ones.
    """
    named = dict.fromkeys(match["port"] for page in pages for match in _PORT.finditer(page))
    ports = {port: str((served or {}).get(port) or free_port()) for port in named}
    return [_PORT.sub(lambda match: match["before"] + ports[match["port"]], page) for page in pages]


def installed(page: str) -> set[str]:
    """What a page has its reader install, wherever it names a ``pip install``."""
    commands = re.findall(r"pip install ([^`\n#&]+)", re.sub(r"\n *'", " '", page))
    return {one for command in commands for one in shlex.split(command)}


def servers(page: str) -> dict[str, str]:
    """The servers that a page says it needs: kind by port, from "a Redis or Valkey server at `localhost:6379`"."""
    return {match["port"]: match["kind"] for match in _SERVER.finditer(" ".join(page.split()))}


class Reader:
    """Follows pages in a folder.

    Args:
        folder: Where the files go, and where all terminals begin.
        environment: The variables of all terminals.
        unnamed: The file for Python that a page gives no file's name; see `steps`.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, unnamed: str = "") -> None:
        self._folder = folder
        self._unnamed = unnamed
        self._environment = dict(environment)
        self._terminals: dict[str, Terminal] = {}
        #: What the commands that ended printed, each by its text.
        self.printed: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def follow(self, name: str, page: str) -> None:
        """Does what a page says.

        Raises:
            AssertionError: It doesn't come out as the page shows; says where and what came instead.
        """
        for line, step in steps(page, self._unnamed):
            self.follow_step(f"{name}:{line}" if line else name, step)

    def follow_step(self, where: str, step: Step) -> None:
        """Does one thing.

        Raises:
            AssertionError: As `follow` does.
        """
        try:
            self._do(step)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error

    def finish(self) -> None:
        """Types Ctrl-C wherever something still runs, the newest first: servers end last.

        Raises:
            AssertionError: It doesn't end by that.
        """
        for terminal in reversed(self._terminals.values()):
            terminal.interrupt()

    def _do(self, step: Step) -> None:
        if isinstance(step, File):
            path = self._folder / step.name
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text().rstrip("\n") + "\n\n\n" if step.continued else ""
            path.write_text(before + step.text)
        elif isinstance(step, CtrlC):
            self._terminal(step.terminal).interrupt()
        elif step.goes_on:
            self._go_on(self._terminal(step.terminal), step)
        else:
            self._run(self._terminal(step.terminal), step)

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            terminal = closing(Terminal(name, self._folder, self._environment))
            self._terminals[name] = self._stack.enter_context(terminal)
        return self._terminals[name]

    def _run(self, terminal: Terminal, step: Command) -> None:
        terminal.type(step.text)
        terminal.wait(PATIENCE)
        printed = self.printed[step.text] = terminal.printed()
        story = f"$ {step.text}\n{printed}"
        assert bool(FAILS.search(step.text)) == (terminal.status != 0), f"ended with status {terminal.status}:\n{story}"
        assert not step.shown or expected_output.is_all_of(step.shown, printed), (
            f"the page shows\n{_lines(step.shown)}\nand it printed\n{story}"
        )

    def _go_on(self, terminal: Terminal, step: Command) -> None:
        if step.text:
            terminal.type(step.text)
        with suppress(AssertionError):
            eventually(lambda: terminal.idle or self._appeared(terminal, step), PATIENCE)
        # What is printed last is there once it has ended.
        assert self._appeared(terminal, step), _missing(terminal, step)
        terminal.look_on(expected_output.up_to(step.shown, terminal.printed()) or "")

    def _appeared(self, terminal: Terminal, step: Command) -> bool:
        return expected_output.up_to(step.shown, terminal.printed()) is not None


def _missing(terminal: Terminal, step: Command) -> str:
    end = f"(ended with status {terminal.status})" if terminal.idle else "(goes on)"
    printed = f"$ {step.text}\n{terminal.printed()}"
    return f"the page shows\n{_lines(step.shown)}\nand {terminal.name} printed\n{printed}\n{end}"


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(lines)
