"""Who follows a page notices what is wrong with it, and says where."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.package import environments, expected_output, test_pages, transcript
from tests.package.transcript import Command, File, Reader, steps, with_free_ports


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path, environments.variables())


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
def test_a_page_that_is_not_true_is_reported(reader: Reader, text: str, said: str) -> None:
    with reader, pytest.raises(AssertionError, match=said):
        reader.follow("page.md", page(text))


def test_python_that_goes_nowhere_is_reported() -> None:
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
    assert expected_output.is_all_of([on_the_page], f"{printed}\n") is same
    assert (expected_output.up_to([on_the_page], f"before\n{printed}\nafter\n") is not None) is same


# --- Pages that are read on GitHub and on package indexes ---


def test_a_file_is_named_above_its_block() -> None:
    text = page("""
Write `a.py`:

'''python
a = 1
'''

Nothing but `text:` here. `sub/b.py`:
'''python
class B:
'''

Its method:

'''python
    def b(self): ...
'''

`a.py`, continued:

'''python
a += 1
'''
""")
    found = [step for _, step in steps(text)]
    assert found == [
        File("a.py", "a = 1\n"),
        File("sub/b.py", "class B:\n"),
        File("sub/b.py", "    def b(self): ...\n", continued=True),
        File("a.py", "a += 1\n", continued=True),
    ]


def test_a_continued_file_holds_both_parts(reader: Reader, tmp_path: Path) -> None:
    with reader:
        reader.follow("page.md", page("`a.py`:\n'''python\na = 1\n'''\n`a.py`, continued:\n'''python\na += 1\n'''\n"))
    assert (tmp_path / "a.py").read_text() == "a = 1\n\n\na += 1\n"


def test_a_terminal_is_named_above_its_block() -> None:
    text = page(
        "Start it,\nin a second terminal:\n\n'''console\n$ celery worker\n… ready.\n'''\n'''console\n$ ls\n'''\n"
    )
    assert [step for _, step in steps(text)] == [
        Command("Terminal 2", "celery worker", ["… ready."], True),
        Command("Terminal 1", "ls", [], False),
    ]


def test_an_illustration_is_neither_typed_nor_written() -> None:
    mark = "<!-- not run: it needs a site -->"
    text = page(
        f"{mark}\n'''console\n$ rm x\n'''\n{mark}\n\n'''python\nx\n'''\n<!-- not run: -->\n'''console\n$ ls\n'''\n"
    )
    assert [step for _, step in steps(text)] == [Command("Terminal 1", "ls", [], False)]


def test_python_without_a_name_keeps_the_lines_of_its_page() -> None:
    text = page("text\n\n'''python\na = 1\n'''\n\n'''python\nb = 2\n'''\n")
    (_, file), (_, command) = steps(text, "page.py")
    assert file == File("page.py", "\n\n\na = 1\n\n\n\nb = 2\n")
    assert [text.splitlines().index(line) for line in ("a = 1", "b = 2")] == [3, 7]
    assert isinstance(command, Command)
    assert command.text.endswith("run_page_code.py page.py")


def test_what_a_page_needs_is_read_from_its_words() -> None:
    text = "You need a Redis or Valkey server\nat `localhost:6379`, RabbitMQ at `localhost:5672`. See `localhost:80`."
    assert transcript.servers(text) == {"6379": "Redis", "5672": "RabbitMQ"}
    text = "`pip install 'a[b]'` and (`pip install\n'c'`)\n$ pip install d e   # f\n"
    assert transcript.installed(text) == {"a[b]", "c", "d", "e"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'''python\nimport flask.views\n'''", "page.py imports flask: name it in a pip install"),
        ("`pip install flask` `a.py`:\n'''python\nfrom flask import g\nimport json, celery_locks\n'''", None),
        ("`a.py`:\n'''python\n'''\n`b.py`:\n'''python\nimport a\n'''", None),
        ("'''python\nx = 'redis://localhost:1/0'\n'''", "uses redis://localhost:1: say which server"),
        ("Redis at `localhost:1`\n'''python\nx = 'redis://localhost:1/0'\n'''", None),
        ("Redis at `localhost:1`\n'''python\nx = 'amqp://g:g@localhost:1//'\n'''", "say which server"),
        ("Redis at `localhost:1`\n'''python\nx = 'redis://localhost/0'\n'''", "say which server"),
        ("x\n'''bash\nls\n'''", "line 2: bash: commands that are typed are `console`"),
        ("'''text\nfrom x import y\n'''", "line 1: code that is pasted is `python`"),
        ("'''text\nlost the lease of 'x'\n'''", None),
        ("- x\n\n  '''python\n  x\n  '''", "line 3: an indented block is not followed"),
    ],
)
def test_a_page_that_leaves_its_reader_alone_is_reported(text: str, said: str | None) -> None:
    found = list(test_pages.unsaid(page(text)))
    assert not found if said is None else len(found) == 1 and said in found[0]


# --- What is pasted ---


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print(1, 2, sep='-')  # 1-2", None),
        ("print({'a': 1})  # {'a': 1}", None),
        ("print(None)  # None: that was all", None),
        ("print('lock of a1b2')  # lock of …", None),
        ("print(7)", None),
        ("x = 1  # 2", None),
        ("\n\nprint(1)  # 2", "line 3: the page shows '2', and it printed '1'"),
        ("for x in (1, 2):\n    print(x)  # 1", "line 2: the page shows '1', and it printed '2'"),
        ("if 0:\n    print(1)  # 1", "line 2: the page shows '1', and nothing was printed"),
        ("def f():\n    return 1 / 0\n\nf()", "line 2: ZeroDivisionError: division by zero"),
        ("import nothing_of_the_kind", "line 1: ModuleNotFoundError"),
        ("a = 1\nb =", "line 2: SyntaxError"),
    ],
)
def test_what_is_pasted_prints_what_its_comments_say(tmp_path: Path, code: str, said: str | None) -> None:
    (tmp_path / "page.py").write_text(f"{code}\n")
    argv = [sys.executable, str(transcript.RUN_PAGE_CODE), "page.py"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) is (said is None), done.stdout + done.stderr
    assert said is None or said in done.stdout


def test_a_failure_names_the_page_and_the_line_of_its_code(tmp_path: Path) -> None:
    python = environments.variables()
    with Reader(tmp_path, python, unnamed="page.py") as reader, pytest.raises(AssertionError) as failure:
        reader.follow("how-to.md", page("text\n\n'''python\na = 1\nassert a == 2, a\n'''\n"))
    assert "how-to.md" in str(failure.value)
    assert "line 5: AssertionError: 1" in str(failure.value)
