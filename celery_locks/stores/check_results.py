"""Results of a store's checks: a text for each check, which is empty where all is well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: The beginning of the result of a check that could not look.
NOT_KNOWN = "not known: "


def is_warning(result: str) -> bool:
    """Return whether a result is a warning, not "all is well" or "not known"."""
    return bool(result) and not result.startswith(NOT_KNOWN)


def merge(answers: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the results of several servers as those of one: their warnings, or else what is not known.

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
