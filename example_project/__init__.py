"""A small shop whose Celery tasks hold locks, and a demo that runs it while one of its workers is killed."""
