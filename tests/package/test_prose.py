"""The English of the package, of its main pages and of the tests' names: no phrase that a reader has to decode.

`python -m tests.package.test_prose [PATH ...]` lists what it finds, a line each.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/explanation/decisions.md")
MOST_WORDS_OF_A_SENTENCE = 25

#: Phrases, and what to write instead. `python -m tests.package.test_prose` shows where they stand.
PHRASES = {
    r"\b(is|are|was|were|be|been|could|can|cannot|can't) (not )?(be )?had\b": "is acquired, is available",
    r"\b(tell|tells|told|telling)\b": "is notified, reports, logs",
    r"\b(says|(is|are|was|were|be|as) said)\b": "states, documents, is described in",
    r"\b(nobody|whoever|somebody|those who|those that|they who)\b": "name the actor: the holder, the first waiter",
    r"\bbesides?\b": "alongside, next to, compared with",
    r"(?<!thing )(?<!one )(?<!body )(?<!where )(?<!what )(?<!who )\belse\b": "otherwise",
    r"\bso (many|much|long|few)\b": "n, that many, this long, the value",
    r"\bsuch (?!as\b)": "the value; a ... like this",
    r"\b(go|goes|went|gone) (along|with it|with them)\b": "joins the batch",
    r"\b(mend|mends|mended)\b": "fix",
    r"\b(look|looks|looked|looking) after\b": "maintain",
    r"\b(do|does|did|doing|done) without\b": "omit",
    r"\bat once\b": "immediately, or at the same time",
    r"\b(come|comes|came|coming) (free|by)\b": "becomes free, passes",
    r"\b(short of what|fall(s|en)? short|fell short)\b": "results below target",
    r"\b(be it|though it be|thereby|thus far|whatsoever|hence|therein)\b": "rewrite",
    r"\b(give|gives|gave|given|giving) (it |them |a lease |the lease )?back\b": "release",
    r"\b(hand|hands|handed|handing) (it |them )?on\b": "dispatch",
    r"\b(send|sends|sent|sending) (it |them )?on\b": "dispatch",
    r"\b(prolong|prolongs|prolonged|prolonging)\b": "extend, renew",
    r"\b(frees|freed|freeing)\b": "release",
    r"\b(strike|strikes|struck)\b": "occur, interrupt",
}
_PATTERNS = {re.compile(phrase, re.IGNORECASE): instead for phrase, instead in PHRASES.items()}


class Finding(NamedTuple):
    path: Path
    line: int
    text: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.text} -> {self.instead}"


def findings(path: Path) -> list[Finding]:
    """Return the phrases and the long sentences of a file."""
    found = []
    for line, text, is_prose in _texts(path):
        words = " ".join(text.split())
        for pattern, instead in _PATTERNS.items():
            for match in pattern.finditer(words):
                around = words[max(0, match.start() - 30) : match.end() + 30]
                found.append(Finding(path, line, f"{match[0]!r} in ...{around}...", instead))
        if is_prose:
            found += [
                Finding(path, line, f"{len(sentence)} words in {' '.join(sentence[:8])} ...", "shorter sentences")
                for sentence in map(str.split, _sentences(text))
                if len(sentence) > MOST_WORDS_OF_A_SENTENCE
            ]
    return found


def _texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield each text of a file, with its line, and whether it consists of sentences."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _texts_of_python(text)
    elif path.suffix in (".lua", ".sql"):
        yield from _comments(text, "--")
    elif path.suffix == ".md":
        yield from _paragraphs(text)
    else:
        yield 1, re.sub(r"\{[%{].*?[%}]\}", "", text), False  # without the code of templates


def _texts_of_python(text: str) -> Iterator[tuple[int, str, bool]]:
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                docstrings.add(node.body[0].lineno)
                yield node.body[0].lineno, docstring, True
    literals = (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in literals and token.start[0] not in docstrings:
            yield token.start[0], _without_code(token.string), False
    yield from _comments(text, "#")


def _without_code(literal: str) -> str:
    """Return a string literal without the words of SQL and without the expressions of an f-string."""
    if "f" in literal.partition(literal[-1])[0].lower():  # before Python 3.12 an f-string is one token
        literal = re.sub(r"\{[^{}]*\}", "", literal)
    return re.sub(r"\b(CASE|WHEN|THEN|ELSE)\b", "", literal)


def _comments(text: str, mark: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the comments; lines of comments that follow each other are one."""
    begin, lines = 0, list[str]()
    comment = re.compile(rf"^\s*{mark}:? ?(?!\s*(?:type:|noqa|ruff:|mypy:|pragma))(.*)$")
    trailing = re.compile(rf"\s{mark} (?!type:|noqa|pragma)([^'\"]+)$")
    for number, line in enumerate(text.splitlines(), 1):
        if whole := comment.match(line):
            begin = begin or number
            lines.append(whole[1])
            continue
        if lines:
            yield begin, "\n".join(lines), True
        begin, lines = 0, []
        if at_end := trailing.search(line):
            yield number, at_end[1], True
    if lines:
        yield begin, "\n".join(lines), True


def _paragraphs(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the paragraphs of Markdown: neither its code nor its tables."""
    text = re.sub(r"^( *)(```|~~~).*?^\1\2", lambda code: "\n" * code[0].count("\n"), text, flags=re.M | re.S)
    line = 1
    for block in re.split(r"(\n\s*\n|\n(?= *(?:[-*|]|\d+\.) ))", text):
        is_table = block.lstrip().startswith("|")
        yield line + len(block) - len(block.lstrip("\n")), block, not is_table
        line += block.count("\n")


def _sentences(text: str) -> list[str]:
    """Return the sentences of a text. Items of lists, and what is laid out by hand, end a sentence too."""
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.split(r"(?<=[.!?:;])[)\"'*]*\s+|\n\s*\n|\n {2,}|\n(?=\w+:\s)|\n(?=[-*#]|\d+\. )", text)


def files() -> list[Path]:
    """Return the files whose prose is checked."""
    package = [path for path in (ROOT / "celery_locks").rglob("*") if path.suffix in (".py", ".lua", ".sql", ".html")]
    return sorted([*package, ROOT / "pytest_celery_locks.py", *(ROOT / page for page in PAGES)])


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("'''Return what nobody holds.'''", "nobody"),
        ("# If it is free, else wait.\nx = 1", "else"),
        ("raise ValueError(f'{x} could not be had in time')", "could not be had"),
        ("'''" + "word " * 25 + "word.'''", "26 words"),
    ],
)
def test_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, phrase: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert [str(found) for found in findings(path) if phrase in found.text]


def test_leaves_code_alone(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("if x:\n    pass\nelse:\n    told = 'something else'\n")
    assert findings(path) == []


def test_plain_english() -> None:
    found = [str(finding) for path in files() for finding in findings(path)]
    assert not found, f"{len(found)} phrases to rewrite:\n" + "\n".join(found)


def test_names_of_tests() -> None:
    folders = (ROOT / "tests", ROOT / "celery_locks" / "testing", ROOT / "example_project")
    found = []
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                words = node.name.replace("_", " ")
                phrases = [f"{match[0]!r}" for pattern in _PATTERNS for match in pattern.finditer(words)]
                found += [f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}: {phrase}" for phrase in phrases]
    assert not found, "\n".join(found)


if __name__ == "__main__":
    named = [Path(argument).resolve() for argument in sys.argv[1:]]
    checked = [path for path in files() if not named or any(path.is_relative_to(each) for each in named)]
    for finding in (finding for path in checked for finding in findings(path)):
        print(finding)
