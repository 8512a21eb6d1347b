"""Before any test module imports it: asserts of the compliance suite that show their values."""

import pytest

pytest.register_assert_rewrite("celery_locks.testing")
