import pytest

# Before anything imports it: asserts of the compliance suite that show their values.
pytest.register_assert_rewrite("celery_locks.testing")
