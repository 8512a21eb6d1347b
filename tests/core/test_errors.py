"""Errors travel: through pickle, and through Celery's JSON results."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from celery_locks import errors
from celery_locks.errors import LockContended, LockError, LockLost, LockTimeout

PLAIN = [
    errors.LockError,
    errors.LockNotOwned,
    errors.LockKeyError,
    errors.LockConfigError,
    errors.StoreUnavailable,
    errors.LockQueueFull,
]
ALL: list[LockError] = [
    *[kind("what happened", "k") for kind in PLAIN],
    *[kind("what happened") for kind in PLAIN],
    *[kind() for kind in PLAIN],
    LockContended("held", "k", ["a", "b"]),
    LockTimeout("held", "k", ("a",)),
    LockTimeout(),
    LockLost("gone", "k", "stolen"),
    LockLost("gone", "k"),
]


def as_json(error: LockError) -> LockError:
    """As Celery's results keep it: the class by name, and the args as JSON."""
    name, args = type(error).__name__, json.loads(json.dumps(error.args))
    return getattr(errors, name)(*args)  # type: ignore[no-any-return]


@pytest.mark.parametrize("error", ALL, ids=repr)
@pytest.mark.parametrize(
    "travel", [as_json, lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],
    ids=["json", "pickle", "copy", "deepcopy"],
)  # fmt: skip
def test_promise_24_errors_survive_their_travels(error: LockError, travel: object) -> None:
    arrived = travel(error)  # type: ignore[operator]
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
    assert arrived.args == error.args


def test_every_error_is_tested_here() -> None:
    kinds = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, LockError)}
    assert {type(error) for error in ALL} == kinds


@pytest.mark.parametrize("error", ALL, ids=repr)
def test_errors_carry_their_key_and_show_their_message(error: LockError) -> None:
    assert error.key in ("k", None)
    assert str(error) == error.message
    assert isinstance(error, LockError)


def test_holders_are_a_list_of_their_own() -> None:
    holders = ["a"]
    error = LockContended("held", "k", holders)
    holders.append("b")
    assert error.holders == ["a"]


def test_a_timeout_is_a_contention() -> None:
    assert issubclass(LockTimeout, LockContended)


@pytest.mark.parametrize(
    ("kind", "base"),
    [(errors.LockConfigError, ValueError), (errors.LockKeyError, ValueError), (LockTimeout, TimeoutError)],
)
def test_errors_are_caught_as_the_built_in_ones(kind: type[LockError], base: type[Exception]) -> None:
    with pytest.raises(base) as caught:
        raise kind("what happened", "k")
    assert str(caught.value) == "what happened"


def test_a_timeout_has_no_error_number() -> None:
    error = LockTimeout("held", "k", ["a"])
    assert (error.errno, error.strerror, error.filename) == (None, None, None)


def test_a_loss_has_a_reason() -> None:
    assert LockLost("gone", "k", "replaced").reason == "replaced"
    assert LockLost("gone", "k").reason is None
