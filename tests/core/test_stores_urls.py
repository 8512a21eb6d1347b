"""Stores by URL, and URLs without their passwords."""

from __future__ import annotations

import sys
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_locks import LockConfigError
from celery_locks.stores import mask, open_store
from celery_locks.stores.memory import MemoryStore

REDIS_URLS = [
    "redis://localhost/1",
    "rediss://localhost:6380/0?ssl_cert_reqs=CERT_NONE",
    "redis+socket:///run/redis.sock?virtual_host=1",
    "unix:///run/redis.sock?db=1",
    "valkey://localhost",
    "valkeys://localhost",
    "REDIS://localhost/1",
    "redis+sentinel://h1,h2:26380/service/0",
    "rediss+sentinel://[::1]:26379/service?ssl_cert_reqs=CERT_NONE",
    "valkey+sentinel://h1/service",
]
CLUSTER_URLS = [
    "redis+cluster://h1,h2:7000",
    "redis+cluster://h1/0?min_replicas=1",
    "rediss+cluster://[::1]:7000,h2?ssl_cert_reqs=CERT_NONE",
    "valkey+cluster://h1",
]


@pytest.mark.parametrize("url", REDIS_URLS)
def test_promise_21_redis_and_valkey_are_opened_without_a_connection(url: str) -> None:
    assert type(open_store(url)).__name__ == "RedisStore"


@pytest.mark.parametrize("url", CLUSTER_URLS)
def test_promise_21_a_cluster_is_opened_without_a_connection(url: str) -> None:
    assert type(open_store(url)).__name__ == "RedisClusterStore"


def test_the_same_memory_url_is_the_same_store() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    assert open_store("memory://a") is open_store("memory://a")
    assert open_store("memory://a") is not open_store("memory://b")


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("rediss+socket:///x", r"redis\+socket"),
        ("reddis://h", "redis"),
        ("sqllite:///x", "sqlite"),
        ("memmory://", "memory"),
    ],
)
def test_an_unknown_scheme_suggests_the_near_one(url: str, near: str) -> None:
    with pytest.raises(LockConfigError, match=f"did you mean {near}://") as caught:
        open_store(url)
    assert "memory://, sqlite://" in str(caught.value)


@pytest.mark.parametrize("url", ["amqp://guest@h//", "localhost:6379", "nonsense", "://", "ftp://x"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(LockConfigError, match="no lock store has the scheme") as caught:
        open_store(url)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://u:secret@h:6379/0", "redis://u:***@h:6379/0"),
        ("redis://:secret@h", "redis://:***@h"),
        ("redis://:se@cret@h", "redis://:***@h"),
        ("redis://u:se/cret@h/0", "redis://u:***@h/0"),
        ("redis://u:se#c?ret@h", "redis://u:***@h"),
        ("redis://u:se\ncret@h", "redis://u:***@h"),
        ("redis://u:secret@[::1]:1/0", "redis://u:***@[::1]:1/0"),
        ("redis://u:[secret@h/0", "redis://u:***@h/0"),
        ("redis+sentinel://:secret@h1,:secret@h2/s/0", "redis+sentinel://:***@h2/s/0"),
        ("redis+sentinel://u:secret@h/s?sentinel_password=other", "redis+sentinel://u:***@h/s?sentinel_password=***"),
        ("redis://h/0?password=secret&db=1", "redis://h/0?password=***&db=1"),
        ("redis://h/0?db=1&ssl_password=secret", "redis://h/0?db=1&ssl_password=***"),
    ],
)
def test_promise_21_passwords_are_masked(url: str, masked: str) -> None:
    assert mask(url) == masked


@pytest.mark.parametrize(
    "url",
    [
        *REDIS_URLS,
        *CLUSTER_URLS,
        "memory://",
        "sqlite:////var/lib/locks.db",
        "redis://[::1]:6379/0",
        "redis://u@h/0",
        "",
        "x",
    ],
)
def test_what_has_no_password_stays_as_it_is(url: str) -> None:
    assert mask(url) == url


@settings(deadline=None)
@given(st.text(min_size=8, max_size=20))
def test_promise_21_no_password_shows_whatever_is_in_it(password: str) -> None:
    password = f"<{password}>"
    assert password not in mask(f"redis://anna:{password}@host:6379/0")


@pytest.mark.parametrize("url", ["redis://u:hunter/2@h", "redis://u:[hunter@h", "redis://:hun:ter@h:port/0"])
def test_promise_21_no_error_shows_a_password(url: str) -> None:
    """Python itself quotes what it takes for the port, and in the causes of an error too."""
    with pytest.raises(LockConfigError, match="%40") as caught:
        open_store(url)
    assert "hun" not in "".join(traceback.format_exception(caught.value))


def test_an_address_that_cannot_be_read_says_why() -> None:
    with pytest.raises(LockConfigError, match=r"redis://h:99x/0, can't be read: .*99x"):
        open_store("redis://h:99x/0")


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("celery_locks.stores.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(LockConfigError, match=r"needs the package redis: pip install 'celery-locks\[redis\]'"):
        open_store("redis://localhost")
