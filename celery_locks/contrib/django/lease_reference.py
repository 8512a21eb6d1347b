"""The name of one lease, for the links and forms of the admin.

A key can't stand in a form by itself: browsers change line ends, and HTML has no NUL. A signed reference is plain
ASCII. It names a lease by its fencing token, and no later lease has the same one. So it needs no maximal age: the
reference to a lease that has ended releases nothing. It gives no right: its sender needs the permission to release.
"""

from __future__ import annotations

from typing import NamedTuple

from django.core import signing
from django.core.exceptions import BadRequest

from celery_locks._validation import DEFAULT_STORE

#: Of references of this form; another form needs another salt.
_SALT = "celery_locks.contrib.django.lease"
_UNREADABLE = (
    "this reference to a lease is not complete, or was made before SECRET_KEY changed: "
    "open the page of the key again, and release it from there"
)


class LeaseReference(NamedTuple):
    """One lease of a key.

    Attributes:
        key: The key, as it is held.
        part: Which part of it; see `LockInfo.part`.
        fencing_token: Which of the leases.
        store: The name of the store.
    """

    key: str
    part: str
    fencing_token: int
    store: str = DEFAULT_STORE

    def signed(self) -> str:
        """Return it as a text that `read` accepts."""
        return str(signing.dumps(list(self), salt=_SALT))

    @classmethod
    def read(cls, signed: str) -> LeaseReference:
        """Return the reference in a signed text.

        Raises:
            BadRequest: This site signed no such text.
        """
        try:
            return cls(*signing.loads(signed, salt=_SALT))
        except signing.BadSignature:
            raise BadRequest(_UNREADABLE) from None
