"""The tests of the shop. They use the pytest fixtures of celery-locks, and no server."""
