"""Whom celery-locks is measured beside. Each side is a small adapter with one way to acquire and release a lock."""
