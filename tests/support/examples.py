"""How many examples Hypothesis tries of a property: ``HYPOTHESIS_PROFILE=long`` tries many more."""

from __future__ import annotations

import os

from hypothesis import settings

#: Whether to look for longer, each time elsewhere.
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def examples(number: int) -> settings:
    """Return a decorator: this many examples, without a deadline, since other tests run alongside."""
    return settings(max_examples=number * (20 if LONG else 1), deadline=None)
