"""The shop: what a project with celery-locks looks like."""
