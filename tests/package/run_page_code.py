"""Run the Python of a page as a reader who pasted it would, and compare what it prints with its comments.

``python run_page_code.py page.py``, in the folder of the file. A comment behind a ``print(…)`` is what that call
prints, also with a colon and more words after it; ``…`` stands for any text. It needs nothing but Python, for it runs
in the reader's environment. The first line that it prints of an error names the line of the page, where the file has
each line.
"""

from __future__ import annotations

import builtins
import io
import re
import runpy
import sys
import tokenize
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What the calls of each line printed.
printed: dict[int, list[str]] = {}
_print = print


def main(path: str) -> int:
    """Runs the file; returns the exit status."""
    builtins.print = _recording(path)
    sys.path[0] = ""  # where Python has it for a reader's file: the folder
    try:
        runpy.run_path(path, run_name="__main__")
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        lines += [error.lineno] if isinstance(error, SyntaxError) and error.filename == path else []
        _print(f"line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}")
        traceback.print_exc()
        return 1
    finally:
        builtins.print = _print
    wrong = list(differences(Path(path).read_text()))
    _print(*wrong, sep="\n")
    return bool(wrong)


def differences(code: str) -> Iterator[str]:
    """The lines whose comment is not what they printed."""
    for line, comment in _comments(code):
        texts = printed.get(line, [])
        if not texts:
            yield f"line {line}: the page shows {comment!r}, and nothing was printed"
        for text in texts:
            if text != comment and not _shown(comment).match(text):
                yield f"line {line}: the page shows {comment!r}, and it printed {text!r}"


def _comments(code: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT and "print(" in token.line[: token.start[1]]:
            yield token.start[0], token.string.lstrip("# ")


def _shown(comment: str) -> re.Pattern[str]:
    """What fits the beginning of a comment, up to any of its colons."""
    ends = [comment, *(comment[: match.start()] for match in re.finditer(": ", comment))]
    return re.compile("|".join(f"(?:{re.escape(end).replace('…', '.*')})$" for end in ends))


def _recording(path: str) -> Any:
    def recording(*values: object, sep: str | None = " ", **named: Any) -> None:
        frame = sys._getframe(1)
        if frame.f_code.co_filename == path:
            printed.setdefault(frame.f_lineno, []).append((" " if sep is None else sep).join(map(str, values)))
        _print(*values, sep=sep, **named)

    return recording


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
