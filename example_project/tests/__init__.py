"""How the shop tests its locks: with the fixtures that celery-locks brings for pytest, and no server."""
