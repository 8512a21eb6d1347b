"""The argument KEY: what the shell is offered for it, and how a key that can't be typed is written.

A key is text that users of the site sent, and a shell runs what a word contains. Each shell is offered a key as one
word that runs nothing, or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem, split_arg_string

from celery_locks.cli.escapes import printable, unescaped

F = TypeVar("F", bound=Callable[..., Any])

#: How many keys are offered at most.
MAX_OFFERED = 50
#: Characters that a shell interprets; those of the first group only at the beginning of a word.
_UNSAFE = re.compile(r"\A[@+=:%]|(?![\w@+=:%./-])[ -~]")
#: Where bash ends a word while it completes, and nowhere else.
_BREAKS = frozenset("@=:")
_ESCAPED, _TYPED = f"{__name__}.escaped", f"{__name__}.typed"


def quoted(text: str) -> str:
    """Return printable text as a word that bash, zsh and fish read as this text."""
    return _UNSAFE.sub(r"\\\g<0>", text)


# --- Parameters ---


def escaped_option(command: F) -> F:
    """Add the option by which keys are read as they are printed."""
    return click.option(
        "--escaped",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_keep,
        help=r"Read keys as they are printed: \n, \x1b and \u202e for letters that can't be, \\ for a backslash.",
    )(command)


def _keep(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta[_ESCAPED] = value


def as_typed(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return a key, or how one begins, as the options of the command mean it.

    Raises:
        click.BadParameter: An escape is wrong.
    """
    if value is None or not ctx.meta.get(_ESCAPED):
        return value
    try:
        return unescaped(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None


def key_argument(command: F) -> F:
    """Add the argument KEY."""
    return click.argument("key", cls=Key, callback=as_typed)(escaped_option(command))


def optional_key_argument(command: F) -> F:
    """Add the argument KEY to a command that can do without."""
    return click.argument("key", cls=Key, callback=as_typed, required=False)(escaped_option(command))


def complete_store(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of the app's stores that begin so."""
    try:
        from celery_locks.locks import store_names

        names = store_names(_app(ctx).conf)
    except Exception:  # an error here would be printed over what the user types
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete) and not _UNSAFE.search(name)]


class Key(click.Argument):
    """The argument KEY, completed with the keys that are held or waited for."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """While completing, leave it to `shell_complete` whether the key is complete: bash takes ``user:7`` apart."""
        if not ctx.resilient_parsing:
            return super().consume_value(ctx, opts)
        first = opts.get(self.name or "")
        ctx.meta[_TYPED] = [first] if isinstance(first, str) else []
        return None, ParameterSource.DEFAULT

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        options_are_over = "--" in os.environ.get("COMP_WORDS", "").split()
        try:
            offer = _OFFERS.get(_shell(ctx), _Offer)([*ctx.meta.get(_TYPED, []), *ctx.args], incomplete)
            texts = [] if offer.typed else _texts(ctx, offer.begun)
        except Exception:  # an error here would be printed over what the user types
            return []
        words = (offer.word(text) for text in texts if options_are_over or not text.startswith("-"))
        return [CompletionItem(word) for word in words if word is not None]


def _texts(ctx: click.Context, begun: str) -> list[str]:
    """Return what can be typed for the keys that are held or waited for, and begins so."""
    escaped, key = ctx.meta.get(_ESCAPED), begun
    if escaped:
        try:
            key = unescaped(begun)
        except ValueError:  # its last escape has only begun
            key = unescaped(begun.rpartition("\\")[0])
    keys = keys_of(_app(ctx), key, ctx.params.get("store"))
    texts = map(printable, keys) if escaped else filter(str.isprintable, keys)
    return [text for text in texts if text.startswith(begun)]


def keys_of(app: Any, begun: str, store: str | None = None) -> list[str]:
    """Return the first keys of an app that begin so, in one of its stores."""
    from celery_locks import Locks

    locks = Locks.from_app(app) if store is None else Locks.from_app(app, store)
    return [item.key for item in locks.list(begun, count=MAX_OFFERED).items]


def _app(ctx: click.Context) -> Any:
    """Return the app of ``celery -A``, which completion has by its name only."""
    from celery.app.utils import find_app  # completion runs none of the celery command's own code

    app = ctx.find_root().params.get("app")
    return find_app(app) if isinstance(app, str) else app


# --- Shells ---


def _shell(ctx: click.Context) -> str:
    """Return the name of the shell that asks, as click reads it."""
    program = re.sub("[-.]", "_", ctx.find_root().info_name or "").upper()
    return os.environ.get(f"_{program}_COMPLETE", "").partition("_")[0]


class _Offer:
    """What a shell is offered. Of a shell that is not known: what is inert in all of them.

    Attributes:
        typed: The words of the command line that are complete, options apart.
        begun: The text that the last word stands for.
    """

    def __init__(self, typed: Sequence[str], incomplete: str) -> None:
        self.typed, self.begun = typed, incomplete
        last = split_arg_string(os.environ.get("COMP_WORDS", ""))[-1:]
        if last and last[0].endswith(f"={incomplete}"):  # click takes what is before it for an option
            self.begun = last[0]

    def word(self, text: str) -> str | None:
        """Return what click's script for the shell is given for a text; ``None`` where no word is safe."""
        return None if _UNSAFE.search(text) else text


class _Zsh(_Offer):
    """``compadd`` quotes the words by itself, as the quote that is open needs it."""

    def word(self, text: str) -> str | None:
        return text


class _Fish(_Offer):
    """Fish quotes the words by itself, except "~" and "%self". Click's script cuts them at commas, and echoes them."""

    def word(self, text: str) -> str | None:
        return None if "," in text or text[0] in "~%" or re.fullmatch("-[neEs]+", text) else text


class _Bash(_Offer):
    """Bash inserts words as they are, in place of what follows the last break or the open quote."""

    def __init__(self, typed: Sequence[str], incomplete: str) -> None:
        words, last = os.environ["COMP_WORDS"].split("\n"), int(os.environ["COMP_CWORD"])
        first = last
        while words[last] and first and (_is_break(words[first]) or _is_break(words[first - 1])):
            first -= 1
        super().__init__(typed[: max(0, len(typed) - (last - first))], "")
        before = "".join(_read(word)[0] for word in words[first:last])
        text, self._quote, quoted_text = _read(words[last])
        self.begun = before + text
        if self._quote:
            self._kept = len(self.begun) - len(quoted_text)
        else:
            kept = self.begun if _is_break(words[last]) else before
            self._kept = len(kept) - kept.endswith("@")  # which bash replaces, too

    def word(self, text: str) -> str | None:
        rest, quote = text[self._kept :], self._quote
        if not quote:
            return quoted(quoted(rest))  # click's script reads backslashes and commas, and expands patterns
        # Each unsafe letter closes the quote, is escaped, and opens it again. So it runs nothing where the quote is not
        # open, either: click does not pass on where in the word the cursor is.
        word = _UNSAFE.sub(lambda found: f"{quote}\\{found[0]}{quote}", rest)
        # Bash omits an opening quote that is there already, and a closing one after such a quote.
        return quoted(quote * word.startswith(quote) + word + quote * word.endswith(quote))


def _is_break(word: str) -> bool:
    return bool(word) and _BREAKS.issuperset(word)


def _read(word: str) -> tuple[str, str, str]:
    """Return the text of a word of bash, the quote that is open at its end, and what follows this quote."""
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
