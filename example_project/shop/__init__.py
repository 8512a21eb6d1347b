"""The shop: an example of a project with celery-locks."""
