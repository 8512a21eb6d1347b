"""The scopes: when the lease of a task is acquired, and when it is released."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scope:
    """When a task's leases are held.

    Attributes:
        name: The scope's name.
        call: Whether the call acquires a lease.
        run_adopts: Whether the run adopts the lease of its call, and hands it to its retries.
        separate_locks: Whether call and run acquire leases of two locks.
        lasting: Whether the call's lease stays until its ttl ends.
    """

    name: str
    call: bool = True
    run_adopts: bool = False
    separate_locks: bool = False
    lasting: bool = False


_SCOPES = {
    scope.name: scope
    for scope in (
        Scope("while_executing", call=False),
        Scope("until_executed", run_adopts=True),
        Scope("until_executing"),
        Scope("until_and_while_executing", separate_locks=True),
        Scope("until_expired", lasting=True),
    )
}


def scope_named(name: str) -> Scope:
    """Return the scope with this name. Options are checked, so there is one."""
    return _SCOPES[name]
