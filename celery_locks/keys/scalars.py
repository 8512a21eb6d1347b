"""The texts of values without parts: two values of a type have the same text exactly if they are equal."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from json import JSONEncoder
from typing import Any

#: Integers from here on are written in hex, because `sys.set_int_max_str_digits` limits only decimal text.
_HUGE = 10**600

#: A day that has a day before it and a day after it.
_DAY = date(2000, 1, 1)
_MIDNIGHT = datetime(2000, 1, 1)

#: Not limited to ASCII: keys should be readable in every language.
quote = JSONEncoder(ensure_ascii=False).encode

_JSON_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def string(value: str, depth: int = 0) -> str:
    """Return a text in quotes. Lone surrogates are escaped, because a key must be encodable."""
    if value.isascii():
        return quote(value)
    # The backslash of an escaped lone surrogate is unambiguous: quoting has doubled the backslashes of the text itself.
    return quote(joined_surrogates(str.__str__(value))).encode("utf-8", "backslashreplace").decode()


def integer(value: int, depth: int = 0) -> str:
    """Return the digits of an integer, in hex if it is huge."""
    return int.__repr__(value) if -_HUGE < value < _HUGE else hex(value)


def floating(value: float, depth: int = 0) -> str:
    """Return the shortest text that reads back as the same float. Both zeros have one text, and nan has one."""
    text = float.__repr__(value)
    return "0.0" if text == "-0.0" else text


def decimal(value: Decimal) -> str:
    """Return a number without its trailing zeros. Without arithmetic, which would round to the context's precision."""
    if not value.is_finite():
        return str(value)
    negative, digits, exponent = value.as_tuple()
    written = "".join(map(str, digits))
    significant = written.rstrip("0")
    if not significant:
        return "0"
    power = int(exponent) + len(written) - len(significant)
    sign = "-" if negative else ""
    text = f"{sign}{significant}E{power}"
    return format(Decimal(text), "f") if -40 <= power <= 40 else text


def moment(value: datetime) -> str:
    """Return an aware datetime in UTC, and a naive one as it is."""
    offset = value.utcoffset()
    if offset is None:
        return datetime.isoformat(value)
    local = value.replace(tzinfo=None)
    try:
        return datetime.isoformat(local - offset) + "Z"
    except OverflowError:  # within a day of the first or the last possible datetime
        return duration(local - datetime.min - offset) + "Z"


def clock(value: time) -> str:
    """Return an aware time in UTC, which may be on the day before or after, and a naive one as it is."""
    offset = value.utcoffset()
    if offset is None:
        return time.isoformat(value)
    utc = datetime.combine(_DAY, value.replace(tzinfo=None)) - offset
    return (utc.time().isoformat() if utc.date() == _DAY else duration(utc - _MIDNIGHT)) + "Z"


def duration(value: timedelta) -> str:
    """Return days and seconds. Only the days can be negative, so each duration has one text."""
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{value.days}d{value.seconds}{fraction}s"


def bytes_text(value: bytes | bytearray) -> str:
    """Return bytes as text, or as hex digits if they are not text. Only here can two values have the same text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def json_key_text(key: Any) -> str | None:
    """Return the text that JSON makes of a dict's key, or ``None`` for a key that JSON can't have."""
    if isinstance(key, str):
        return joined_surrogates(str.__str__(key))
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return integer(key)
    if isinstance(key, float):
        return _JSON_FLOATS.get(text := float.__repr__(key), text)
    return None


def joined_surrogates(text: str) -> str:
    """Return a text with each surrogate pair as one character, as JSON reads it. Lone surrogates stay."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text
