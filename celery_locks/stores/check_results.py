"""The results of a store's checks: a text for each check, empty when all is well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: The beginning of the result of a check that could not be made.
NOT_KNOWN = "not known: "


def is_warning(result: str) -> bool:
    """Return whether a result is a warning, not "all is well" or "not known"."""
    return bool(result) and not result.startswith(NOT_KNOWN)


def merge(answers: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Merge the results of several servers: their warnings, or if there are none, what is not known.

    Args:
        answers: The results of each server.
    """
    merged: dict[str, list[str]] = {}
    for answer in answers:
        for check, result in answer.items():
            merged.setdefault(check, []).append(result)
    return {check: _merge(results) for check, results in merged.items()}


def _merge(results: list[str]) -> str:
    found = [result for result in dict.fromkeys(results) if result]
    return "; ".join([result for result in found if is_warning(result)] or found)
