"""A type checker finds a misspelt or wrong option, and nothing in what is right; so does an editor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from celery_locks import Backoff, Contention, ContentionPolicy, LockConfigError, LockedTask
from celery_locks.settings import ON_LOST, OPTION_NAMES, SCOPES
from celery_locks.tasks import LockKeywords
from celery_locks.tasks.option_types import RunPolicyName
from celery_locks.tasks.options import checked_options
from celery_locks.tasks.policies.basic import CALL_POLICIES, POLICIES
from tests.support.celery_worker import ROOT

HEAD = """\
from datetime import timedelta
from typing import Any

from celery_locks import Backoff, Contention, ContentionPolicy, LockedTask, single_instance
from celery_locks.tasks import LockKeywords


def key_of(user_id: int) -> str:
    return f"user:{user_id}"


def own_policy(contention: Contention) -> Any:
    return contention.wait()


class OwnPolicy(ContentionPolicy):
    def contended(self, contention: Contention) -> Any:
        raise contention.error()


def body(user_id: int) -> str:
    return "done"


"""


@dataclass(frozen=True)
class Sample:
    """Values of an option, as they are written."""

    right: list[str]
    wrong: list[str] = field(default_factory=lambda: ["object()"])


DURATIONS = ["60", "2.5", "timedelta(minutes=1)", '"90s"']
NO_DURATIONS = ['"sixty"', "[60]"]
SAMPLES = {
    "key": Sample(['"user:<user_id>"', "key_of", "lambda user_id: str(user_id)", "None"], ["7", 'b"user"']),
    "ttl": Sample(DURATIONS, [*NO_DURATIONS, "None"]),
    "renew": Sample(["True", "False", "5", "2.5", "timedelta(seconds=5)"], ['"yes"', "None"]),
    "max_hold": Sample([*DURATIONS, "None"], NO_DURATIONS),
    "limit": Sample(["3"], ["1.5", '"3"', "None"]),
    "permits": Sample(["1"], ["1.5", '"3"', "None"]),
    "scope": Sample([f'"{scope}"' for scope in SCOPES], ['"until_exectued"', "None"]),
    "on_contention": Sample(
        [
            *(f'"{policy}"' for policy in {**POLICIES, **dict.fromkeys(CALL_POLICIES)}),
            *(f'{{"run": "{policy}"}}' for policy in POLICIES),
            *(f'{{"call": "{policy}", "run": "retry"}}' for policy in CALL_POLICIES),
            "own_policy",
            "OwnPolicy()",
            '{"run": own_policy}',
            '{"run": OwnPolicy()}',
        ],
        ['"retri"', '{"run": "retri"}', '{"run": "existing"}', '{"call": "retry"}', '{"cal": "skip"}', "7", "None"],
    ),
    "max_wait": Sample([*DURATIONS, "None"], NO_DURATIONS),
    "max_waiters": Sample(["3", "None"], ["1.5", '"3"']),
    "park_safety_copy": Sample(["True", *DURATIONS], ['"yes"', "None"]),
    "backoff": Sample(["Backoff(cap=5)"], ["5", "None"]),
    "on_lost": Sample([f'"{what}"' for what in ON_LOST], ['"abrt"', "None"]),
    "store": Sample(['"audit"'], ["7", "None"]),
    "enabled": Sample(["True", "False"], ['"no"', "None", "1"]),
}
#: What no option's value has to do with. "WRONG" are lines with an error.
REST = """\
@single_instance(key="user:<user_id>", ttl=60, limit=2)
def decorated(user_id: int) -> str:
    return "done"


@single_instance
def bare(user_id: int) -> str:
    return "done"


decorated(7).upper()
bare(7).upper()
single_instance(body, ttl=60)(7).upper()
decorated("7")  # WRONG
bare("7")  # WRONG
single_instance(body, ttl=60)("7")  # WRONG
single_instance(tll=3)(body)  # WRONG
single_instance(body, tll=3)  # WRONG
single_instance(key=lambda user_id: 7)(body)  # WRONG
options: LockKeywords = {"ttl": 60, "scope": "until_executed"}
single_instance(**options)(body)(7).upper()


class Once(LockedTask):
    abstract = True
    lock_scope = "until_executed"
    lock_ttl = 600
    lock_on_contention = {"call": "skip", "run": "park"}


class KeyOfAFunction(Once):
    lock_key = staticmethod(key_of)


class KeyOfAMethod(Once):
    @staticmethod
    def lock_key(user_id: int) -> str:
        return str(user_id)


class PolicyOfAFunction(LockedTask):
    lock_on_contention = staticmethod(own_policy)


class WrongKeyOfAMethod(Once):
    @staticmethod
    def lock_key(user_id: int) -> int:  # WRONG
        return user_id
"""


def written() -> str:
    """The sample: each option by each of the ways to give one, each value in a line of its own."""
    lines = []
    for name, sample in SAMPLES.items():
        values = [*((value, "") for value in sample.right), *((value, "  # WRONG") for value in sample.wrong)]
        for number, (value, mark) in enumerate(values):
            lines += [
                f"single_instance({name}={value})(body)(7).upper(){mark}",
                f"single_instance(body, {name}={value})(7).upper(){mark}",
                f"class {name.title()}{number}(LockedTask):",
                f"    lock_{name} = {value}{mark}",
            ]
    return HEAD + "\n".join(lines) + "\n" + REST


def test_every_option_has_a_sample_and_a_type() -> None:
    assert list(SAMPLES) == list(OPTION_NAMES)
    assert list(get_type_hints(LockKeywords)) == list(OPTION_NAMES)
    attributes = [name for name in get_type_hints(LockedTask) if name.startswith("lock_")]
    assert attributes == [f"lock_{name}" for name in OPTION_NAMES]


def test_the_names_of_policies_are_those_of_their_type() -> None:
    assert list(POLICIES) == list(get_args(RunPolicyName))


@pytest.mark.parametrize("name", SAMPLES)
def test_the_options_are_checked_as_they_are_typed(name: str) -> None:
    class OwnPolicy(ContentionPolicy):
        def contended(self, contention: Contention) -> Any:
            """Never called."""

    names = {"timedelta": timedelta, "Backoff": Backoff, "OwnPolicy": OwnPolicy, "key_of": str, "own_policy": str}
    for value in SAMPLES[name].right:
        checked_options({name: eval(value, names)})
    for value in SAMPLES[name].wrong:
        with pytest.raises(LockConfigError):
            checked_options({name: eval(value, names)})


@pytest.mark.slow
def test_mypy_finds_what_is_wrong_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(written())
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "shop.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = written().splitlines()
    found = {int(number) for number in re.findall(r"^shop\.py:(\d+): error", done.stdout, re.MULTILINE)}
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# WRONG")}
    assert len(wrong) > 80
    assert [lines[number - 1] for number in sorted(wrong - found)] == [], f"not found; {done.stdout}{done.stderr}"
    assert [lines[number - 1] for number in sorted(found - wrong)] == [], f"found in vain; {done.stdout}"
