"""What each scope means: when the lease is taken, and when it is given back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scope:
    """When a task's leases are held.

    Attributes:
        name: Its name.
        call: Whether a lease is taken at the call.
        run: Whether the body runs under a lease of the key.
        apart: Whether the call's lease is on a lock of its own beside that of the run.
        to_the_end: Whether the call's lease is the run's, and goes on to its retries.
        lasting: Whether the call's lease is left alone until its ttl is over.
    """

    name: str
    call: bool = True
    run: bool = False
    apart: bool = False
    to_the_end: bool = False
    lasting: bool = False


_SCOPES = {
    scope.name: scope
    for scope in (
        Scope("while_executing", call=False, run=True),
        Scope("until_executed", run=True, to_the_end=True),
        Scope("until_executing"),
        Scope("until_and_while_executing", run=True, apart=True),
        Scope("until_expired", lasting=True),
    )
}


def scope_named(name: str) -> Scope:
    """The scope with this name (the settings know no other names)."""
    return _SCOPES[name]
