"""References to single leases, for the links and forms of the admin.

A form can't contain every key: browsers change line ends, and HTML has no NUL. A signed reference is plain ASCII. It
identifies a lease by its fencing token, which no later lease has. So it needs no maximal age: a reference to a lease
that has ended releases nothing. It grants no right: its sender needs the permission to release.
"""

from __future__ import annotations

from typing import NamedTuple

from django.core import signing
from django.core.exceptions import BadRequest

from celery_locks._validation import DEFAULT_STORE

#: The salt of references of this form. Another form needs another salt.
_SALT = "celery_locks.contrib.django.lease"
_UNREADABLE = (
    "this reference to a lease is incomplete, or was made before SECRET_KEY changed: "
    "open the page of the key again, and release it from there"
)


class LeaseReference(NamedTuple):
    """A reference to one lease of a key.

    Attributes:
        key: The key.
        part: The part of the key; see `LockInfo.part`.
        fencing_token: The fencing token of the lease.
        store: The name of the store.
    """

    key: str
    part: str
    fencing_token: int
    store: str = DEFAULT_STORE

    def signed(self) -> str:
        """Return the reference as a signed text."""
        return str(signing.dumps(list(self), salt=_SALT))

    @classmethod
    def read(cls, signed: str) -> LeaseReference:
        """Return the reference in a signed text.

        Raises:
            BadRequest: This site has not signed the text.
        """
        try:
            return cls(*signing.loads(signed, salt=_SALT))
        except signing.BadSignature:
            raise BadRequest(_UNREADABLE) from None
