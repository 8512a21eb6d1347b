"""The two screens: plain lines, and a live table."""

from __future__ import annotations

from collections.abc import Callable

from rich.box import SIMPLE
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from example_project.demo.state import State
from example_project.demo.verdict import Verdict
from example_project.demo.watch import Holding

BAR = 24


class PlainScreen:
    """Lines of text, a progress line each second: for logs and pipes."""

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
        progress = f"{state.done} of {state.total} tasks done, keys held: {len(state.holdings)}"
        self.say(f"  {state.note or progress}")

    def close(self) -> None:
        pass


class LiveScreen:
    """A table of all keys that changes as they change hands; what is said scrolls by above it."""

    def __init__(self, console: Console, elapsed: Callable[[], float]) -> None:
        self._console = console
        self._elapsed = elapsed
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def say(self, text: str) -> None:
        line = Table.grid(padding=(0, 2, 0, 0))  # so that a long text goes on below itself
        line.add_row(Text(f"{self._elapsed():5.1f} s", "dim"), Text(text))
        self._console.print(line)

    def show(self, state: State) -> None:
        self._live.start()
        self._live.update(Group("", _keys(state), "", _progress(state, self._elapsed())), refresh=True)

    def close(self) -> None:
        self._live.stop()


def summary(verdict: Verdict) -> Table:
    """The table at the end."""
    table = Table(box=SIMPLE, show_header=False, pad_edge=False)
    for what, value, kept in verdict.lines:
        mark = Text("") if kept is None else Text("as promised", "green") if kept else Text("BROKEN", "bold red")
        table.add_row(what, value, mark)
    return table


def _keys(state: State) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # Widths that don't change with what is in them: the table would jump.
    for column, width in {"key": 0, "task": 17, "worker": 15, "held for": 8, "lease left": BAR + 6}.items():
        justify: JustifyMethod = "right" if column == "held for" else "left"
        table.add_column(column, justify=justify, no_wrap=True, min_width=width, header_style="bold")
    held = {holding.key: holding for holding in state.holdings}
    for key in state.keys:
        table.add_row(*(_holder(held[key], state) if key in held else (Text(key, "dim"), Text("free", "dim"))))
    return table


def _holder(holding: Holding, state: State) -> tuple[Text, ...]:
    dead = holding.worker in state.dead
    style = "red" if dead else ""
    return (
        Text(holding.key, style or "bold"),
        Text(holding.task, style),
        Text(f"{holding.worker}, killed" if dead else holding.worker, style or "cyan"),
        Text(f"{holding.held_for:.1f} s", style),
        _bar(holding.left / state.ttl, style or "green").append(f"  {holding.left:.1f} s", style),
    )


def _progress(state: State, elapsed: float) -> Text:
    told = state.note or f"{state.done} of {state.total} tasks done, {state.sent} sent"
    return _bar(state.done / state.total, "blue").append(f"  {told}, {elapsed:.0f} s")


def _bar(share: float, style: str) -> Text:
    full = round(min(share, 1) * BAR)
    return Text("█" * full, style).append("░" * (BAR - full), "dim")
