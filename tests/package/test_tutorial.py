"""The tutorial, followed to its end by somebody who has nothing but Python, an empty folder and the built wheel.

How a page of ``docs/tutorial`` is written so that it can be followed (the pages go in the order in which the site lists
them, ``index.md`` first and the others by name; all in one folder, one after the other):

- A block with ``title="tasks.py"`` is a file: it is written, or written anew, when the reader comes to it. Python
  without a title is an error: nothing would tell the reader where it goes.
- A block ``console``: lines with ``$ `` are typed, what stands below such a line is what it prints. A line that ends
  with a backslash goes on in the next, which begins with ``> ``. A command must end well (status 0), within 90 s; with
  ``# fails`` at its end it must not.
- Where nothing is shown below a command, what it prints is not looked at. Where something is, all of it is: a line
  ``...`` stands for any lines, ``...`` or ``…`` within a line for any text. A UUID, a date, a time of day, a number of
  four digits or more, one with a decimal point and two blanks or more stand for any other of their kind.
- A block ``console title="Terminal 2"`` is another terminal, with a shell of its own in the same folder (so it is to
  activate the virtual environment itself). Its last command goes on: the page goes on when what is shown below it has
  been printed (a worker's ``ready.``); other lines may come before, between and after. Without a title it is the first
  terminal, where every command ends.
- Such a block without a ``$ `` line shows what comes next in that terminal, among others: it is waited for.
- A line ``^C`` is Ctrl-C in that terminal. What still runs after the last page gets one, the newest terminal first;
  all must end by it.
- Ports that a page names (``localhost:5555``, ``127.0.0.1:5555``, ``--port=5555``, ``--port 5555``) are replaced by
  free ones, wherever they stand in that way. A server's port is always named, also where it has a default.
- Processes are killed by their ids (``kill -9 "$(cat worker.pid)"``), never by name: other tests run beside this one.
- ``pip install celery-locks`` installs the wheel that has just been built. Nothing else is there: no server, no broker.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.package import environments, shown
from tests.package.conftest import Built
from tests.package.transcript import Reader, steps, with_free_ports
from tests.support.celery_worker import ROOT

TUTORIAL = ROOT / "docs" / "tutorial"


def pages() -> list[Path]:
    """In the order in which the site lists them."""
    return sorted(TUTORIAL.glob("*.md"), key=lambda page: (page.name != "index.md", page.name))


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path, environments.variables())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_can_be_followed_to_its_end(built: Built, tmp_path: Path) -> None:
    texts = with_free_ports([page.read_text() for page in pages()])
    assert texts
    with Reader(tmp_path, environments.variables(**environments.for_pip(built.wheel))) as reader:
        for page, text in zip(pages(), texts, strict=True):
            reader.follow(page.name, text)
        reader.finish()
    environments.assert_has(tmp_path / ".venv", built.wheel)


# --- Who follows pages notices what is wrong with them ---


def page(text: str) -> str:
    return text.replace("'''", "```")


def test_a_page_is_followed(reader: Reader, tmp_path: Path) -> None:
    text = page("""
'''python title="folder/hello.py"
import os, uuid
print("hello,", os.environ.get("WHO"), 10**15)
print(uuid.uuid4(), 0.25)
print("the end")
'''

'''console
$ cd folder && export WHO=reader
$ python3 \\
>   hello.py
hello, reader 4711
...
the end
$ python3 -c "import celery_locks"  # fails
$ echo $PWD
…/folder
'''

'''console title="Terminal 2"
$ echo 'first, second' && cat folder/hello.py && echo ready. >&2 && sleep 600
first, …
ready.
'''

'''console
$ echo "$WHO"
reader
'''

'''console title="Terminal 2"
^C
$ echo "$WHO." && sleep 600
.
'''
""")
    with reader:
        reader.follow("page.md", text)
        reader.finish()
    assert (tmp_path / "folder" / "hello.py").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'''console\n$ echo one\ntwo\n'''", r"page.md:1: the page shows\ntwo\nand it printed\n\$ echo one\none"),
        ("\n'''console\n$ echo one; echo two\none\n'''", "page.md:2: the page shows"),
        ("'''console\n$ echo one\none\ntwo\n'''", "the page shows"),
        ("'''console\n$ ls nothing\n'''", "ended with status [12]"),
        ("'''console\n$ true # fails\n'''", "ended with status 0"),
        ("'''console title=\"Terminal 2\"\n$ echo one\ntwo\n'''", r"Terminal 2 printed\n\$ echo one\none\n\n\(ended"),
    ],
)
def test_a_page_that_is_not_true_is_told_of(reader: Reader, text: str, said: str) -> None:
    with reader, pytest.raises(AssertionError, match=said):
        reader.follow("page.md", page(text))


def test_python_that_goes_nowhere_is_told_of() -> None:
    with pytest.raises(AssertionError, match="line 3"):
        list(steps(page("text\n\n'''python\nprint(1)\n'''")))


def test_each_port_becomes_a_free_one() -> None:
    one, two = with_free_ports(["x --port=5555 5555", "http://localhost:5555/ redis://127.0.0.1:6379/0"])
    port = re.fullmatch(r"x --port=(\d+) 5555", one)[1]  # type: ignore[index]
    other = re.fullmatch(rf"http://localhost:{port}/ redis://127.0.0.1:(\d+)/0", two)[1]  # type: ignore[index]
    assert len({port, other, "5555", "6379"}) == 4


@pytest.mark.parametrize(
    ("on_the_page", "printed", "same"),
    [
        ("took 0.52 s", "took 13.1 s", True),
        ("pid 4711, 3 of 4", "pid 12, 3 of 4", True),
        ("pid 4711, 3 of 4", "pid 12, 4 of 4", False),
        ("at 12:03:11 on 2026-11-21", "at 09:59:00 on 2030-01-01", True),
        ("task 7b1c5c5e-8d0c-4d0f-9b0c-0123456789ab", "task 00000000-0000-0000-0000-00000000000f", True),
        ("a … z", "a b c z", True),
        ("KEY   FOR", "KEY      FOR", True),
        ("KEY FOR", "KEYFOR", False),
        ("a.b", "axb", False),
    ],
)
def test_what_may_differ_from_run_to_run(on_the_page: str, printed: str, same: bool) -> None:
    assert shown.is_all_of([on_the_page], f"{printed}\n") is same
    assert (shown.up_to([on_the_page], f"before\n{printed}\nafter\n") is not None) is same
