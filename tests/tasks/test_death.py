"""When a process dies that holds a lease, its key is free soon after, and never before."""

from __future__ import annotations

import pytest

from tests.tasks.conftest import Shop
from tests.tasks.faults import FAULTS, Fault, watch

pytestmark = pytest.mark.slow
#: What the machine may take for itself in a test that measures a bound.
SLACK = 2


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_promise_01_and_02_a_child_that_died_holds_nothing(prefork_shop: Shop, key: str, fault: Fault) -> None:
    seen = watch(prefork_shop, prefork_shop.workers[0], fault, key)
    print(fault, seen)
    assert seen.free_after < fault.within + SLACK
