"""The two screens: plain lines, and a live table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from rich.box import SIMPLE
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from example_project.demo.state import State
from example_project.demo.verdict import Verdict
from example_project.demo.watch import Holding

#: The longest and the shortest bar, in characters.
BAR, SHORTEST_BAR = 24, 5
#: The gap between two columns, and the width of a duration, in characters.
GAP, SECONDS = 2, 5
#: The width of the summary table in characters. A narrower terminal gets lines.
TABLE = 72
#: The columns after the key. Their widths are fixed, so that the table does not move.
COLUMNS = {"task": 17, "worker": 15, "held for": 8, "lease left": 10}
#: The text after the name of a killed worker.
KILLED = ", killed"
#: The columns that a narrow terminal omits, in this order. The key is always shown in full.
DISPENSABLE = ("task", "held for", "worker", "lease left")


class PlainScreen:
    """Lines of text with a progress line each second, for logs and pipes."""

    def __init__(self, console: Console, elapsed: Callable[[], float]) -> None:
        self._console = console
        self._elapsed = elapsed
        self._next = 1.0

    def say(self, text: str) -> None:
        self._console.print(f"{self._elapsed():5.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    def show(self, state: State) -> None:
        if self._elapsed() < self._next:
            return
        self._next = self._elapsed() + 1
        held = f"{len(state.holdings)} of {len(state.keys)} keys held"
        self.say(f"  {state.note or f'{state.done} of {state.total} tasks done, {held}'}")

    def close(self) -> None:
        pass


class LiveScreen:
    """A live table of all keys, with the text output above it."""

    def __init__(self, console: Console, elapsed: Callable[[], float]) -> None:
        self._console = console
        self._elapsed = elapsed
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def say(self, text: str) -> None:
        line = Table.grid(padding=(0, 2, 0, 0))  # so that a long text is indented
        line.add_row(Text(f"{self._elapsed():5.1f} s", "dim"), Text(text))
        self._console.print(line)

    def show(self, state: State) -> None:
        width = self._console.width
        parts = (_keys(state, width), "", _progress(state, self._elapsed(), width))
        self._live.start()
        self._live.update(Group("", *parts), refresh=True)

    def close(self) -> None:
        self._live.stop()


def summary(verdict: Verdict, width: int) -> RenderableType:
    """Return the table at the end."""
    if width < TABLE:
        marks = {None: "", True: ", as promised", False: ", BROKEN"}
        return Group("", *(Text(f"{what}: {value}{marks[kept]}") for what, value, kept in verdict.lines), "")
    table = Table(box=SIMPLE, show_header=False, pad_edge=False)
    for what, value, kept in verdict.lines:
        mark = Text("") if kept is None else Text("as promised", "green") if kept else Text("BROKEN", "bold red")
        table.add_row(what, value, mark)
    return table


def _keys(state: State, width: int) -> RenderableType:
    key_width = max(map(len, state.keys))
    columns = _columns_that_fit(state, width - key_width)
    rest = width - key_width - _width(columns)
    bar = min(BAR, rest + COLUMNS["lease left"] - GAP - SECONDS)
    if bar < SHORTEST_BAR:
        bar = 0
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column("key", min_width=min(key_width, width), overflow="fold", header_style="bold")
    for column, wide in columns.items():
        wide = bar + GAP + SECONDS if bar and column == "lease left" else wide
        justify: JustifyMethod = "right" if column == "held for" else "left"
        table.add_column(column, justify=justify, no_wrap=True, min_width=wide, header_style="bold")
    held = {holding.key: holding for holding in state.holdings}
    for key in state.keys:
        if key in held:
            table.add_row(*_holder(held[key], state, columns, bar))
        else:
            table.add_row(Text(key, "dim"), *[Text("free", "dim")][: len(columns)])
    return table


def _columns_that_fit(state: State, width: int) -> dict[str, int]:
    """Return the columns that fit next to the key, with their widths."""
    longest = max(map(len, state.dead), default=0) + len(KILLED)
    columns = {**COLUMNS, "worker": max(longest, COLUMNS["worker"])}
    for column in DISPENSABLE:
        if _width(columns) <= width:
            break
        del columns[column]
    return columns


def _width(columns: Mapping[str, int]) -> int:
    return sum(GAP + wide for wide in columns.values())


def _holder(holding: Holding, state: State, columns: Iterable[str], bar: int) -> list[Text]:
    dead = holding.worker in state.dead
    style = "red" if dead else ""
    left = Text(f"{holding.left:.1f} s", style)
    if bar:
        left = _bar(holding.left / state.ttl, style or "green", bar).append(" " * GAP).append(left)
    cells = {
        "task": Text(holding.task, style),
        "worker": Text(holding.worker + KILLED if dead else holding.worker, style or "cyan"),
        "held for": Text(f"{holding.held_for:.1f} s", style),
        "lease left": left,
    }
    return [Text(holding.key, style or "bold"), *(cells[column] for column in columns)]


def _progress(state: State, elapsed: float, width: int) -> Text:
    text = f"{state.note or f'{state.done} of {state.total} tasks done, {state.sent} sent'}, {elapsed:.0f} s"
    bar = min(BAR, width - GAP - len(text))
    if bar < SHORTEST_BAR:
        return Text(text)
    return _bar(state.done / state.total, "blue", bar).append(" " * GAP + text)


def _bar(share: float, style: str, length: int) -> Text:
    full = round(min(share, 1) * length)
    return Text("█" * full, style).append("░" * (length - full), "dim")
