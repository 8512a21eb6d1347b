"""A user's ``self.retry()`` under a lease.

Celery sends the new message at once, while the body still holds the lease: with a short countdown it would meet its
own predecessor, and under "skip" it would be lost. So it is sent when the lease has been given back.
"""

from __future__ import annotations

from collections.abc import Callable

from celery.exceptions import Retry


class PostponedRetry(Retry):
    """What ``self.retry()`` raises in the body of a locked task.

    Args:
        send: Sends the message, and returns the `Retry` that Celery is to see.
    """

    def __init__(self, send: Callable[[], Retry], exc: BaseException | None) -> None:
        super().__init__(exc=exc)
        self.published: Retry | None = None
        self._send = send

    def publish(self) -> None:
        """Sends the message.

        Raises:
            Reject: It could not be sent.
        """
        self.published = self._send()
