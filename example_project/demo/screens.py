"""The two screens: plain lines, and a live table."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
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
        progress = f"{state.done} of {state.total} tasks done, {len(state.holdings)} keys held"
        self.say(f"  {state.note or progress}")

    def close(self) -> None:
        pass


class LiveScreen:
    """A table of all keys that changes as they change hands; what is said scrolls by above it."""

    def __init__(self, console: Console, elapsed: Callable[[], float]) -> None:
        self._plain = PlainScreen(console, elapsed)
        self._elapsed = elapsed
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def say(self, text: str) -> None:
        self._plain.say(text)

    def show(self, state: State) -> None:
        self._live.start()
        self._live.update(Group(_keys(state), _progress(state, self._elapsed())), refresh=True)

    def close(self) -> None:
        self._live.stop()


def summary(verdict: Verdict) -> Table:
    """The table at the end."""
    table = Table(title="Summary", title_justify="left", show_header=False, pad_edge=False)
    for what, value, kept in verdict.lines:
        mark = Text("") if kept is None else Text("as promised", "green") if kept else Text("BROKEN", "bold red")
        table.add_row(what, value, mark)
    return table


def _keys(state: State) -> RenderableType:
    table = Table(title=state.title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("key", "task", "worker", "held for", "lease left"):
        table.add_column(column, justify="right" if column == "held for" else "left", no_wrap=True, header_style="bold")
    held = {holding.key: holding for holding in state.holdings}
    for key in state.keys:
        table.add_row(*(_holder(held[key], state) if key in held else (Text(key, "dim"), Text("free", "dim"))))
    return table


def _holder(holding: Holding, state: State) -> tuple[RenderableType, ...]:
    dead = holding.worker in state.dead
    style = "red" if dead else ""
    left = Table.grid(padding=(0, 1))
    bar = ProgressBar(state.ttl, holding.left, width=BAR, complete_style=style or "green", finished_style="green")
    left.add_row(bar, f"{holding.left:.1f} s")
    return (
        Text(holding.key, style or "bold"),
        Text(holding.task, style),
        Text(f"{holding.worker}, killed" if dead else holding.worker, style or "cyan"),
        Text(f"{holding.held_for:.1f} s", style),
        left,
    )


def _progress(state: State, elapsed: float) -> RenderableType:
    bar = Table.grid(padding=(0, 1))
    told = f"{state.done} of {state.total} tasks done, {state.sent} sent  {elapsed:.0f} s"
    bar.add_row("\n", ProgressBar(state.total, state.done, width=BAR), state.note or told)
    return bar
