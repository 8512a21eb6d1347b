"""The texts of values that have no parts: the same for two values of a type exactly when they are equal."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from json import JSONEncoder
from typing import Any

#: From here on integers are written in hex, because `sys.set_int_max_str_digits` limits only decimal text.
_HUGE = 10**600

#: A day that has others before and after it.
_DAY = date(2000, 1, 1)
_MIDNIGHT = datetime(2000, 1, 1)

#: ASCII is left to the reader: keys should be readable in every language.
quote = JSONEncoder(ensure_ascii=False).encode

_JSON_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def string(value: str, depth: int = 0) -> str:
    """Return it in quotes; lone surrogates are escaped, because a key must be encodable."""
    if value.isascii():
        return quote(value)
    # The backslash of an escaped lone surrogate can't be mistaken: quoting has doubled those of the text itself.
    return quote(joined_surrogates(str.__str__(value))).encode("utf-8", "backslashreplace").decode()


def integer(value: int, depth: int = 0) -> str:
    return int.__repr__(value) if -_HUGE < value < _HUGE else hex(value)


def floating(value: float, depth: int = 0) -> str:
    """Return it as short as it can be read back; the two zeros are equal, and so is nan to nan."""
    text = float.__repr__(value)
    return "0.0" if text == "-0.0" else text


def decimal(value: Decimal) -> str:
    """Write a number without its trailing zeros; no arithmetic, because that rounds to the context's precision."""
    if not value.is_finite():
        return str(value)
    negative, digits, exponent = value.as_tuple()
    written = "".join(map(str, digits))
    significant = written.rstrip("0")
    if not significant:
        return "0"
    power = int(exponent) + len(written) - len(significant)
    text = f"{'-' if negative else ''}{significant}E{power}"
    return format(Decimal(text), "f") if -40 <= power <= 40 else text


def moment(value: datetime) -> str:
    """Return an aware datetime in UTC, whatever its zone, and a naive one as it is."""
    offset = value.utcoffset()
    if offset is None:
        return datetime.isoformat(value)
    local = value.replace(tzinfo=None)
    try:
        return datetime.isoformat(local - offset) + "Z"
    except OverflowError:  # within a day of the first or last moment that a datetime can hold
        return duration(local - datetime.min - offset) + "Z"


def clock(value: time) -> str:
    """Return an aware time in UTC, where it can be of the day before or after, and a naive one as it is."""
    offset = value.utcoffset()
    if offset is None:
        return time.isoformat(value)
    utc = datetime.combine(_DAY, value.replace(tzinfo=None)) - offset
    return (utc.time().isoformat() if utc.date() == _DAY else duration(utc - _MIDNIGHT)) + "Z"


def duration(value: timedelta) -> str:
    """Return days and seconds; only the days are ever negative, so that there is one way to write it."""
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{value.days}d{value.seconds}{fraction}s"


def bytes_text(value: bytes | bytearray) -> str:
    """Return the text that they are, or else their hex digits. Of all texts here only this one can be shared."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def json_key_text(key: Any) -> str | None:
    """Return what JSON makes of a dict's key, or ``None`` where it can't have such a key."""
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
    """Return the text with surrogate pairs as one character, as JSON reads them; lone surrogates stay."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text
