"""One run of the demo, from the start of the server to the summary."""

from __future__ import annotations

import io
import os
import sys
import time
from dataclasses import dataclass

import click
from rich.console import Console

from example_project.demo.embedded import open_on, prepare
from example_project.demo.hurry import LOCKED, hurry
from example_project.demo.processes import Stage
from example_project.demo.screens import LiveScreen, PlainScreen, summary
from example_project.demo.state import Screen

#: The width of the summary without a terminal, in characters.
LOG_WIDTH = 110


@dataclass(frozen=True)
class Settings:
    """The options of the command line."""

    embedded: str
    tasks: int
    workers: int
    concurrency: int
    kill: bool
    locks: bool
    plain: bool
    seed: int


def perform(settings: Settings) -> bool:
    """Run the demo.

    Returns:
        Whether all promises were kept.

    Raises:
        DemoError: The demo failed.
        Interrupted: A signal was received.
    """
    start = time.monotonic()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without these characters shows question marks
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else LOG_WIDTH)
    live = terminal and console.is_terminal and not console.is_dumb_terminal and not settings.plain
    screen = (LiveScreen if live else PlainScreen)(console, lambda: time.monotonic() - start)
    with Stage() as stage:
        backend = prepare(settings.embedded, stage, screen.say)
        open_on(backend, stage)
        os.environ[LOCKED] = "yes" if settings.locks else "no"
        screen.say(f"The shop runs on {backend.name}.")
        screen.say(f"Until the demo ends, its files are in {stage.folder}.")
        return _play(settings, stage, screen, start, console)


def _play(settings: Settings, stage: Stage, screen: Screen, start: float, console: Console) -> bool:
    # Imported here, because the shop reads its settings at the import.
    from example_project.shop.app import app

    hurry(app)
    from example_project.demo.orders import plan
    from example_project.demo.story import Plan, Story
    from example_project.demo.verdict import judge

    jobs = plan(settings.tasks, settings.seed)
    story = Story(Plan(jobs, settings.workers, settings.concurrency, settings.kill), stage, screen)
    story.play()
    verdict = judge(story, settings.kill, time.monotonic() - start)
    console.print(summary(verdict, console.width))
    for sentence in verdict.broken:
        click.echo(f"BROKEN: {sentence}.")
    if not verdict.broken:
        click.echo("Every promise was kept.")
    return not verdict.broken
