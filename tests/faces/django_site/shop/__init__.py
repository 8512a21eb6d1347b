"""A small Django project with locked tasks; its tests are the files ``check_*.py`` beside it."""

from shop.celery import app as celery_app

__all__ = ["celery_app"]
