"""Keys that shells complete: in real shells under a terminal, with the scripts that click has for them.

A key is text of users. Right: TAB inserts one word, which stands for this key and runs nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_locks import Locks
from celery_locks.cli.completion import quoted
from tests.support.celery_worker import ROOT
from tests.support.shells import INTERRUPT, SHELLS, Shell, missing
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PUNCTUATION = r"""all !"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"""
#: Keys, and what is typed of them. None begins as another does.
KEYS = {
    "pwn$(touch${IFS}PWNED)": ("pwn", r"pwn\$", "'pwn", '"pwn'),
    "tick`touch PWNED`;touch PWNED;": ("tick", "'tick", '"tick'),
    PUNCTUATION: ("all", "'all", '"all'),
    "user:7": ("us", "user:", '"us"er:'),
    "mail@host": ("mail@",),
    "k=v:w@$x": ("k=", "k=v:w@", "'k=v"),
    "quote\"'": ("quote", "'quote", '"quote'),
    "bang!!": ('"bang',),
    "glob*?[a]": ("glob", "'glob"),
    r"not\na  line ": (r"not\\", '"not'),
    "long" * 300 + "$": ("long",),
    "ключ 汉": ("кл",),
    "~root": (r"\~",),
    "#comment": (r"\#",),
    "$HOME": (r"\$",),
    "{a,b}": (r"\{",),
    "!1": (r"\!",),
    " lead": (r"\ ",),
    "%self": ("%",),
    "+plus": ("+",),
    "=ls": (r"\=",),
    "^old^new": (r"\^",),
}
#: What click's script for a shell can't pass on.
NOT_OFFERED = {"bash": (), "zsh": (), "fish": (PUNCTUATION, "~root", "{a,b}", "%self")}
CONTROLS = ("ctl\x1b]0;x\x07", "ctl\x9b31m", "ctl\n;touch PWNED", "ctl\x7f", "ctl\u202egnp", "ctl\t", "ctl\xa0")


def add_program(folder: Path, code: str) -> Path:
    (folder / "bin").mkdir()
    program = folder / "bin" / "celery"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}")
    program.chmod(0o755)
    return program.parent


#: The argument on its own: it starts in a fraction of the time that celery takes.
QUICK = """
import json, pathlib
import click
from celery_locks.cli import completion, parameters
held = json.loads(pathlib.Path("keys.json").read_text())
completion.keys_of = lambda app, begun, store: [key for key in held if key.startswith(begun)]
@click.group()
def main(): ...
@main.command()
@parameters.key_argument()
@click.option("--json", is_flag=True)
def show(key, json): ...
main(prog_name="celery")
"""


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    name: str = request.param
    if why := missing(name):
        pytest.skip(why)
    folder = tmp_path_factory.mktemp(name)
    hold(folder, *KEYS, *CONTROLS)
    for file in ("globs", "plain,x", "glob*?[a]"):  # what patterns would find
        (folder / file).touch()
    with Shell(name, folder, add_program(folder, QUICK)) as made:
        yield made


def hold(folder: Path, *keys: str) -> None:
    (folder / "keys.json").write_text(json.dumps(keys))


@pytest.mark.parametrize("key", KEYS)
def test_promise_46_a_key_is_inserted_as_one_inert_word(shell: Shell, key: str) -> None:
    # Only bash leaves the quoting to us: for the others one beginning is enough.
    for begun in KEYS[key] if shell.name == "bash" else KEYS[key][:1]:
        inserted = shell.words(f"celery show {begun}\t")
        assert (inserted == ["show", key]) == (key not in NOT_OFFERED[shell.name]), inserted
    assert not (shell.folder / "PWNED").exists()


def test_promise_46_what_can_not_be_inert_is_not_offered(shell: Shell) -> None:
    assert shell.words("celery show ctl\t") == ["show", "ctl"]
    if shell.name == "fish":
        for key in NOT_OFFERED["fish"]:
            assert shell.words(f"celery show {quoted(key[:3])}\t") == ["show", key[:3]]
    assert "\x9b" not in shell.output
    assert "\x1b]0;x" not in shell.output


def test_keys_that_begin_alike(shell: Shell) -> None:
    hold(shell.folder, "alike$1;x", "alike$1;y", "alike'2")
    try:
        assert shell.words("celery show alike\\$\ty\t") == ["show", "alike$1;y"]
        assert shell.words("celery show alike\\'\t") == ["show", "alike'2"]
    finally:
        hold(shell.folder, *KEYS, *CONTROLS)


def test_a_key_that_looks_like_an_option_is_offered_after_two_dashes(shell: Shell) -> None:
    hold(shell.folder, "--a=b", "-x;")
    try:
        assert shell.words("celery show \t") == ["show"]
        assert shell.words("celery show -- -x\t") == ["show", "--", "-x;"]
        assert shell.words("celery show -- --\t") == ["show", "--", "--a=b"]
    finally:
        hold(shell.folder, *KEYS, *CONTROLS)


def test_only_the_first_word_is_a_key(shell: Shell) -> None:
    assert shell.words("celery show user:7 pw\t") == ["show", "user:7", "pw"]
    assert shell.words("celery show --json pw\t") == ["show", "--json", "pwn$(touch${IFS}PWNED)"]


def test_keys_as_they_are_printed(shell: Shell) -> None:
    hold(shell.folder, "esc\x1b[31m\n$")
    try:
        assert shell.words("celery show --escaped es\t") == ["show", "--escaped", r"esc\x1b[31m\n$"]
        assert shell.words("celery show --escaped esc\\\\x\t") == ["show", "--escaped", r"esc\x1b[31m\n$"]
    finally:
        hold(shell.folder, *KEYS, *CONTROLS)


def test_a_word_that_the_command_line_prints_is_read_by_each_shell(shell: Shell) -> None:
    for text in (PUNCTUATION, "~", "=ls", "+a", "@b", "%self", "-x", r"a\\b\x1b", "ключ"):
        assert shell.words(f"celery list --after {quoted(text)}") == ["list", "--after", text]


def test_bash_with_other_patterns(shell: Shell) -> None:
    if shell.name != "bash":
        pytest.skip("these are options of bash")
    for options in ("failglob", "nullglob extglob"):
        shell.send(f"shopt -s {options}\n")
        assert shell.words("celery show glob\t") == ["show", "glob*?[a]"]
        shell.send(f"shopt -u {options}\n")


def test_an_unknown_shell_gets_what_is_inert_in_all(tmp_path: Path) -> None:
    """Such as PowerShell, for which click inserts words as they are."""
    import subprocess

    hold(tmp_path, "a:1", "a$(x)", "a b", "a'", "a,")
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CUSTOM}{QUICK}"],
        cwd=tmp_path,
        env={**os.environ, "_CELERY_COMPLETE": "custom_complete", "COMP_WORDS": "celery show a", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.split() == ["plain,a:1"]


CUSTOM = """
from click import shell_completion
class Custom(shell_completion.BashComplete):
    name = "custom"
shell_completion.add_completion_class(Custom)
"""


@pytest.mark.parametrize("name", SHELLS)
def test_promise_46_as_users_type_it(name: str, redis_url: str, tmp_path: Path) -> None:
    if why := missing(name):
        pytest.skip(why)
    (tmp_path / "proj.py").write_text(
        f"from celery import Celery\napp = Celery('proj', broker={redis_url!r})\napp.conf.locks_url = {redis_url!r}\n"
    )
    Locks(redis_url).lock("pwn$(touch${IFS}PWNED)").acquire()
    programs = add_program(tmp_path, 'from celery.__main__ import main\nsys.argv[0] = "celery"\nmain()\n')
    with Shell(name, tmp_path, programs, records=False, COLUMNS="200") as shell:
        for command, shown in (("show", "1 of 1 permits are held"), ("wait --timeout 0", "was not free")):
            shell.output = ""
            shell.send(f"celery -A proj locks {command} pwn\t\r")
            eventually(lambda shown=shown: shell.read() and shown in shell.output, 60, shell.output)
        shell.send(INTERRUPT)
    assert not (tmp_path / "PWNED").exists()
