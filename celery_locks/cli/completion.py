"""Completion of keys and stores in shells.

A key is text that users of the site sent, and a shell may run a command that stands in a word. So each shell is offered
a key as one quoted word that runs nothing, or the key is not offered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem, split_arg_string

from celery_locks.cli.escapes import printable, unescaped

#: How many keys are offered at most.
MOST_OFFERED = 50
#: Characters that a shell interprets. It interprets the first group only at the beginning of a word.
_UNSAFE = re.compile(r"\A[@+=:%]|(?![\w@+=:%./-])[ -~]")
#: Characters that end a word in bash, but only while it completes.
_BREAKS = frozenset("@=:")
#: Where a click context keeps the value of ``--escaped``, and the words that were typed before the incomplete one.
ESCAPED, _TYPED = f"{__name__}.escaped", f"{__name__}.typed"


def quoted(text: str) -> str:
    """Return printable text as a word that bash, zsh and fish read as the same text."""
    return _UNSAFE.sub(r"\\\g<0>", text)


def complete_store(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of the app's stores that begin with the incomplete word."""
    try:
        from celery_locks.locks import store_names

        names = store_names(_app(ctx).conf)
    except Exception:  # an error would be printed into the command line
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete) and not _UNSAFE.search(name)]


class KeyArgument(click.Argument):
    """The argument KEY, completed with the keys that are held or waited for."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """Return no value during completion: bash splits ``user:7``, so only `shell_complete` can judge the word."""
        if not ctx.resilient_parsing:
            return super().consume_value(ctx, opts)
        first = opts.get(self.name or "")
        ctx.meta[_TYPED] = [first] if isinstance(first, str) else []
        return None, ParameterSource.DEFAULT

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        options_are_over = "--" in os.environ.get("COMP_WORDS", "").split()
        try:
            offer = _OFFERS.get(_shell(ctx), _Offer)([*ctx.meta.get(_TYPED, []), *ctx.args], incomplete)
            texts = [] if offer.typed else _texts(ctx, offer.beginning)
        except Exception:  # an error would be printed into the command line
            return []
        words = (offer.word(text) for text in texts if options_are_over or not text.startswith("-"))
        return [CompletionItem(word) for word in words if word is not None]


def _texts(ctx: click.Context, beginning: str) -> list[str]:
    """Return the texts that can be typed for the keys that are held or waited for, and that begin like this."""
    escaped, key = ctx.meta.get(ESCAPED), beginning
    if escaped:
        try:
            key = unescaped(beginning)
        except ValueError:  # its last escape is incomplete
            key = unescaped(beginning.rpartition("\\")[0])
    keys = keys_of(_app(ctx), key, ctx.params.get("store"))
    texts = map(printable, keys) if escaped else filter(str.isprintable, keys)
    return [text for text in texts if text.startswith(beginning)]


def keys_of(app: Any, prefix: str, store: str | None = None) -> list[str]:
    """Return the first keys of an app that have a prefix, in one of its stores."""
    from celery_locks import Locks

    locks = Locks.from_app(app) if store is None else Locks.from_app(app, store)
    return [item.key for item in locks.list(prefix, count=MOST_OFFERED).items]


def _app(ctx: click.Context) -> Any:
    """Return the app of ``celery -A``. Completion runs no code of the celery command, so the option is still a name."""
    from celery.app.utils import find_app

    app = ctx.find_root().params.get("app")
    return find_app(app) if isinstance(app, str) else app


# --- Shells ---


def _shell(ctx: click.Context) -> str:
    """Return the name of the shell that completes, as click determines it."""
    program = re.sub("[-.]", "_", ctx.find_root().info_name or "").upper()
    return os.environ.get(f"_{program}_COMPLETE", "").partition("_")[0]


class _Offer:
    """The words that a shell is offered. An unknown shell is offered only words that every shell reads literally.

    Attributes:
        typed: The complete words of the command line, without options.
        beginning: The text that the incomplete word stands for.
    """

    def __init__(self, typed: Sequence[str], incomplete: str) -> None:
        self.typed, self.beginning = typed, incomplete
        last = split_arg_string(os.environ.get("COMP_WORDS", ""))[-1:]
        if last and last[0].endswith(f"={incomplete}"):  # click reads the text before "=" as an option
            self.beginning = last[0]

    def word(self, text: str) -> str | None:
        """Return the word that click's script for the shell gets for a text; ``None`` if no word is safe."""
        return None if _UNSAFE.search(text) else text


class _Zsh(_Offer):
    """Zsh's ``compadd`` quotes the words itself, to fit a quote that is open."""

    def word(self, text: str) -> str | None:
        return text


class _Fish(_Offer):
    """Fish quotes the words itself, except "~" and "%self". Click's script splits them at commas, and echoes them."""

    def word(self, text: str) -> str | None:
        return None if "," in text or text[0] in "~%" or re.fullmatch("-[neEs]+", text) else text


class _Bash(_Offer):
    """Bash inserts words as they are. They replace the text after the last break or the open quote."""

    def __init__(self, typed: Sequence[str], incomplete: str) -> None:
        words, last = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
        first = last
        while words[last] and first and (_is_break(words[first]) or _is_break(words[first - 1])):
            first -= 1
        super().__init__(typed[: max(0, len(typed) - (last - first))], "")
        before = "".join(_read(word)[0] for word in words[first:last])
        text, self._quote, quoted_text = _read(words[last])
        self.beginning = before + text
        if self._quote:
            self._kept = len(self.beginning) - len(quoted_text)
        else:
            kept = self.beginning if _is_break(words[last]) else before
            self._kept = len(kept) - kept.endswith("@")  # bash replaces an "@", too

    def word(self, text: str) -> str | None:
        rest, quote = text[self._kept :], self._quote
        if not quote:
            return quoted(quoted(rest))  # click's script reads backslashes and commas, and expands patterns
        # Each unsafe character closes the quote, is escaped, and opens the quote again. So the word runs nothing even
        # if the quote is not open: click does not report the position of the cursor in the word.
        word = _UNSAFE.sub(lambda found: f"{quote}\\{found[0]}{quote}", rest)
        # Bash omits an opening quote that was typed already, and the closing quote that belongs to it.
        return quoted(quote * word.startswith(quote) + word + quote * word.endswith(quote))


def _is_break(word: str) -> bool:
    return bool(word) and _BREAKS.issuperset(word)


def _read(word: str) -> tuple[str, str, str]:
    """Return the text of a word of bash, the quote that is open at its end, and the text after this quote."""
    text, quote, begin = "", "", 0
    letters = iter(word)
    for letter in letters:
        if letter == "\\" and quote != "'":
            following = next(letters, "")
            text += following if not quote or following in '"\\$`' else letter + following
        elif letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote, begin = letter, len(text)
        else:
            text += letter
    return text, quote, text[begin:]


_OFFERS = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}
