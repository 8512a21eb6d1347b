"""The floors: the core loads nothing of Celery, and no store that was not asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import celery_locks

ROOT = Path(celery_locks.__file__).parent
#: Floors 2 and 3, and the compliance suite, which is for tests.
ABOVE = {"tasks", "flower", "contrib", "cli", "telemetry", "metrics.py", "tracing.py", "testing"}
CORE = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ABOVE)
#: What a store may import of its own driver.
DRIVERS = {
    "_runtime/hubs.py": {"gevent", "eventlet"},
    "stores/redis": {"redis", "valkey"},
    "stores/sql": {"sqlalchemy"},
}


def loaded_after(program: str) -> set[str]:
    """The modules that a fresh Python has loaded for a program, beside those that it always has."""
    show = "import sys; before = set(sys.modules)\n{}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", show.format(program)],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return loaded_after(
        "import celery_locks\n"
        "with celery_locks.Locks('memory://').lock('k', ttl=30) as lease:\n"
        "    lease.check(); lease.extend(); lease.serialize()"
    )


@pytest.mark.parametrize("name", ["celery", "kombu", "billiard", "redis", "sqlite3", "sqlalchemy", "pytest", "asyncio"])
def test_a_lock_in_memory_loads_no(name: str, loaded: set[str]) -> None:
    assert not {module for module in loaded if module.split(".")[0] == name}


def test_a_lock_loads_few_modules(loaded: set[str]) -> None:
    assert len(loaded) < 150, sorted(loaded)
    assert len({name for name in loaded if name.startswith("celery_locks")}) < 45


def test_a_redis_store_loads_no_celery() -> None:
    loaded = loaded_after("import celery_locks; celery_locks.Locks('redis://localhost').lock('k')")
    assert "redis" in loaded
    assert not {"celery", "kombu", "sqlite3"} & loaded


def test_names_of_tasks_load_celery_when_they_are_asked_for() -> None:
    assert "celery" in loaded_after("import celery_locks; celery_locks.LockedTask")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        celery_locks.Nothing  # noqa: B018


def test_every_public_name_is_there() -> None:
    for name in celery_locks.__all__:
        assert getattr(celery_locks, name) is not None


def test_no_module_hides_a_public_name() -> None:
    """A module of the name would be the package's attribute once something imports it."""
    assert not {name for name in celery_locks.__all__ if (ROOT / f"{name}.py").exists() or (ROOT / name).exists()}


def imports(path: Path) -> set[str]:
    """All that a file imports, wherever in it; but not what is imported for type hints alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def above(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "celery_locks" and len(parts) > 1 and (parts[1] in ABOVE or f"{parts[1]}.py" in ABOVE)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_only_the_standard_library_and_itself(path: Path) -> None:
    here = path.relative_to(ROOT).as_posix()
    drivers = {
        name for place, names in DRIVERS.items() if here == place or here.startswith(f"{place}/") for name in names
    }
    allowed = set(sys.stdlib_module_names) | {"celery_locks"} | drivers
    found = imports(path)
    assert {name.split(".")[0] for name in found} <= allowed
    assert {name for name in found if above(name)} == set()


def test_the_test_of_the_floors_sees_the_floors() -> None:
    assert {"lease.py", "locks.py", "stores/redis/store.py"} <= {path.relative_to(ROOT).as_posix() for path in CORE}
    assert above("celery_locks.tasks.run")
    assert above("celery_locks.cli")
    assert not above("celery_locks.locks")
    assert "celery.exceptions" in imports(ROOT / "tasks" / "policies" / "deferral.py")
