"""Stores by URL, and URLs without their passwords."""

from __future__ import annotations

import re
import sys
import traceback
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from celery_locks import LockConfigError, Locks
from celery_locks._addresses import mask, mask_text
from celery_locks.stores import open_store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.redis.cluster import RedisClusterStore
from celery_locks.stores.redis.store import RedisStore
from tests.support.examples import examples

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
#: They have no password, and an "@" and a ":" that look like one.
WITHOUT_PASSWORD = [
    "redis://127.0.0.1:6379/0?client_name=app@box",
    "redis://h?db=1&client_name=job:app@box",
    "redis://anna@h:6379/0?client_name=app@box",
    "unix:///run/a:1@b.sock",
    "redis+socket:///run/a:1@b.sock",
    "redis+sentinel://h:26379,h2/s?sentinel_username=me@x",
    "redlock://h1:1,h2:2,[::1]:3/0?client_name=app@box",
    "sqlite:////tmp/rel:2@x/l.db",
    "sqlite:///C:/me@home/l.db",
    "postgresql://anna@h/d?application_name=app@box",
]
#: They can't be read: there is no "@" that ends the password.
WITHOUT_AT = [
    "redis://:hunter2",
    "redis://u:hunter2",
    "redis://u:hunter2:6379/0",
    "redis://u:hunter2%40h:6379/0",
    "redis://u%3Ahunter2%40h:6379/0",
    "redis://u:hunter2\uff20h",
    "redis://u@h:hunter2",
    "redis:///u:hunter2",
    "redis:/u:hunter2",
    "redis+sentinel://u:hunter2/m",
    "redis+cluster://u:hunter2,b:1",
    "redlock://u:hunter2,b:2,c:3",
    "sharded:redis://u:hunter2;redis://b",
    "sharded:redis://u:hunter2|redis://b",
    "postgresql://u:hunter2/db",
    "postgresql://u%3Ahunter2/db",
    "mysql://u:hunter2",
]
SECRETS = [
    "password",
    "passwd",
    "pass",
    "pwd",
    "secret",
    "token",
    "ssl_password",
    "sentinel_password",
    "sslpassword",
    "password_file",
    "auth",
    "oauth",
    "cred",
    "credential",
    "credentials",
    "access_token",
    "userpass",
    "api_key",
    "passphrase",
    "client_secret",
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
        ("redis://h/0?password=sec&ret&db=1", "redis://h/0?password=***&db=1"),
        ("redis://h/0;passwd=sec#ret", "redis://h/0;passwd=***"),
        ("redis://h:6379/0?password=sec@ret", "redis://h:6379/0?password=***"),
        ("redis://h:6379/0?password=sec&r@et", "redis://h:***"),
        ("redis://us/er:secret@h:1/0", "redis://us/er:***@h:1/0"),
        ("redis://us?er:secret@h:1/0", "redis://us?er:***@h:1/0"),
        ("redis://u%3Asecret@h", "redis://u%3A***@h"),
        ("redis://:secret@", "redis://:***@"),
        ("REDIS://u:secret@h", "REDIS://u:***@h"),
        (" redis://u:se cret@h", " redis://u:***@h"),
        ("redis:/u:secret@h", "redis:***@h"),
        ("u:secret@h", "u:***@h"),
        (":secret@h", ":***@h"),
        ("sentinel://:secret@h1;sentinel://:secret@h2", "sentinel://:***@h1;sentinel://:***@h2"),
        ("sharded:redis://:secret@h1 | redis://:secret@h2", "sharded:redis://:***@h1 | redis://:***@h2"),
        ("redlock://:secret@h1,:secret@h2,h3/0", "redlock://:***@h2,h3/0"),
        ("redis://u:12/34@h", "redis://u:***@h"),
        ("redis://u:12?34@h", "redis://u:***@h"),
        ("redis://u:secret@h:6379/0?client_name=app@box", "redis://u:***@h:6379/0?client_name=app@box"),
        ("redis://u:secret", "redis://u:***"),
        ("redis://u:secret:6379/0", "redis://u:***"),
        ("redis://u:secret%40h:6379/0", "redis://u:***"),
        ("redis://u%3Asecret%40h:6379/0", "redis://u%3A***"),
        ("redis://u@h:secret", "redis://u@h:***"),
        ("redis://u:secret@h:port/0", "redis://u:***"),
        ("redis:///u:secret@h", "redis:///u:***@h"),
        ("redis+cluster://b:1,u:secret", "redis+cluster://b:***"),
        ("sharded:redis://h1:1/0|redis://u:secret", "sharded:redis://h1:1/0|redis://u:***"),
        ("redis://h?PassWord=secret&db=1", "redis://h?PassWord=***&db=1"),
        ("redis://h?p%61ssword=secret&db=1", "redis://h?p%61ssword=***&db=1"),
        ("redis://h?password%3Dsecret", "redis://h?password%3D***"),
        ("unix://u:secret@/run/redis.sock", "unix://u:***@/run/redis.sock"),
        ("unix://#u:secret@/run/redis.sock", "unix://#u:***@/run/redis.sock"),
        ("sqlite://?u:secret@h", "sqlite://?u:***@h"),
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
        "redis://us/er@h/0",
        "redis://:@h/0",
        "redis://h/0?password=",
        *WITHOUT_PASSWORD,
        "redis://h/0?compass=north&max_tokens=3&author=anna&passenger=1",
        "redis://h:/0",
        "memory://a:b@c",
        "localhost:6379",
        "sqlite:////home/anna@work/locks.db",
        "redis+socket:///run/anna@work.sock?virtual_host=1",
        "",
        "x",
    ],
)
def test_what_has_no_password_stays_as_it_is(url: str) -> None:
    assert mask(url) == url


#: Letters that end a part of an address, and some that don't.
parts = st.text(st.sampled_from("/?#@:%[]() \n\t,;|&=\\'\"<>$!~ab19é℀\u202e"), max_size=8)


@examples(120)
@given(
    st.sampled_from(["redis", "rediss+sentinel", "redis+cluster", "redlock", "postgresql", "mysql", "sharded:redis"]),
    st.sampled_from([("hun", "ter2"), ("7071", "7072")]),
    parts,
    parts,
    st.sampled_from(
        [
            "h",
            "h:1/0",
            "[::1]:1",
            "h1,h2,h3/0",
            "h:port",
            "",
            "/",
            "?x",
            "h/s/0?ssl_password=7072",
            "h/?client_name=a@b",
        ]
    ),
)
def test_promise_21_no_password_shows_whatever_is_in_it(
    scheme: str, ends: tuple[str, str], user: str, inner: str, host: str
) -> None:
    """Its beginning and its end count as well: libraries take them for a host, a port or a database."""
    assume(not re.search(r"\?[^?]*=", user + inner))  # parameters, if a port or a host is before them
    begin, end = ends
    shown = shown_of(f"{scheme}://{user}:{begin}{inner}{end}@{host}")
    assert begin not in shown
    assert end not in shown


def shown_of(url: str) -> str:
    """Return all that is printed of an address: masked, in an error with its causes, or in the ``repr`` of a lock."""
    shown = mask(url) + mask_text(f"it failed: {mask(url)}")
    try:
        locks = Locks(url)
        shown += f"{locks.url} {locks!r} {locks.lock('k')!r}"
    except LockConfigError as error:
        # Without the lines of source code, in which the address of a test may be.
        shown += "".join(traceback.format_exception(error)) + repr((error.__context__, error.__cause__))
    return shown


@pytest.mark.parametrize("url", WITHOUT_AT)
def test_promise_21_a_password_without_an_at_is_masked_and_refused(url: str) -> None:
    assert "hunter2" not in shown_of(url)
    if "://" in url:
        assert "hunter2" not in mask_text(f"'{url}', it says") + mask_text(f"at {url}.")
    with pytest.raises(LockConfigError, match="%40"):
        open_store(url)


@examples(100)
@given(
    st.sampled_from(["redis", "rediss+sentinel", "redis+cluster", "redlock", "mysql", "sharded:redis", "amqp"]),
    st.sampled_from(["", "u", "us%2Fer", "b:1,u", "anna@h", "b;u"]),
    st.text(st.sampled_from("/?#:%[](),;|&=\\<>$!~ab19é℀\u202e\uff20"), max_size=8),
    st.sampled_from(["", "%40h", ":6379/0", "/0", ",h2:2", "?db=1", "/0?client_name=app@box"]),
)
def test_promise_21_no_password_shows_where_its_at_is_forgotten(scheme: str, user: str, inner: str, rest: str) -> None:
    url = f"{scheme}://{user}:hun{inner}ter2{rest}"
    shown = shown_of(url) + mask_text(f"'{url}', it says")
    assert "hun" not in shown
    assert "ter2" not in shown


@examples(50)
@given(
    st.sampled_from(["redis", "rediss+sentinel", "postgresql", "sharded:redis"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(["h/s", "h:6379/s?x_y=app@box", "[::1]:1/s?x_y=a:b@c"]),
)
def test_promise_21_any_password_that_is_encoded_is_masked_alone(scheme: str, user: str, word: str, place: str) -> None:
    begin = f"{scheme}://{quote(user, safe='')}:"
    url = f"{begin}{quote(word, safe='')}@{place}"
    assume("%3A" not in quote(user, safe=""))  # the name ends there, to be on the safe side
    assert Locks(url).url == f"{begin}***@{place}"


@pytest.mark.parametrize("url", WITHOUT_PASSWORD)
def test_an_address_that_looks_as_if_it_had_a_password_is_shown_and_opened(url: str) -> None:
    assert Locks(url).url == url
    assert mask_text(f"<{url}>, it says") == f"<{url}>, it says"


@given(st.sampled_from(SECRETS), st.data(), st.sampled_from(["?", "?db=1&", "?db=1;", "#"]))
def test_promise_21_parameters_with_secrets_are_masked(name: str, data: st.DataObject, before: str) -> None:
    encoded = "".join(f"%{ord(letter):x}" if data.draw(st.booleans()) else letter for letter in name)
    name = data.draw(st.sampled_from([encoded, encoded.upper()]))
    equals = data.draw(st.sampled_from(["=", "%3d", "%3D"]))
    for url in ("redis://h/0", "unix:///run/x.sock", "https://h/x"):
        begin = f"{url}{before}{name}{equals}"
        assert mask(f"{begin}hunter2&db=1") == f"{begin}***&db=1"


@pytest.mark.parametrize("login", ["", "anna@"])
def test_a_parameter_that_sqlalchemy_takes_for_a_host_is_refused(login: str) -> None:
    with pytest.raises(LockConfigError, match="%40"):
        open_store(f"postgresql://{login}h:5432/db?application_name=app@box")
    assert Locks(f"postgresql://{login}h:5432/db?application_name=app%40box").url.endswith("app%40box")


def test_promise_21_a_parameter_with_an_encoded_sign_is_not_quoted() -> None:
    assert "hunter2" not in shown_of("sqlite:////tmp/x?password%3Dhunter2")


@given(
    st.sampled_from(["redis", "valkeys", "amqp", "sharded:redis"]),
    st.sampled_from(["", "anna@", "an%40na@"]),
    st.sampled_from(["localhost", "10.0.0.1:6379", "[::1]:6379", "h1:1,h2:2"]),
    st.text(st.sampled_from("/?#:%[]=&;ab19é"), max_size=8),
)
def test_an_address_without_a_password_is_unchanged(scheme: str, user: str, host: str, rest: str) -> None:
    url = f"{scheme}://{user}{host}/{rest}"
    assert mask(url) == url
    assert mask_text(f"<{url}> by celery@web") == f"<{url}> by celery@web"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("'redis://u:secret@h:1/0', it says", "'redis://u:***@h:1/0', it says"),
        ("ValueError('redis://us/er:secret@h:1/0')", "ValueError('redis://us/er:***@h:1/0')"),
        ("at redis://u:se cret@h now", "at redis://u:***@h now"),
        (r"ValueError('redis://u:se\ncret@h')", "ValueError('redis://u:***@h')"),
        ("redis://:***@h1 is away, redis://:***@h2, too", "redis://:***@h1 is away, redis://:***@h2, too"),
        ("redis://h:6379/0: locked by celery@web", "redis://h:6379/0: locked by celery@web"),
        ("redis://[::1]:6379/0 by celery@web", "redis://[::1]:6379/0 by celery@web"),
        ("'redis://u:secret', it says", "'redis://u:***', it says"),
        ("https://u:secret@a.org:80/x?mail=a@b.c", "https://u:***@a.org:80/x?mail=a@b.c"),
        ("https://a.org/?next=redis://u:secret@h/@x", "https://a.org/?next=redis://u:***@x"),
        ("https://a.org/?token=secret", "https://a.org/?token=***"),
    ],
)
def test_promise_21_passwords_within_a_text_are_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org:8443/@bob/1",
        "crawl:https://a.org:80/x?mail=a@b.c",
        "https://en.wikipedia.org/wiki/Talk:Main@x",
        "https://a.org/?compass=north",
        "reached at redis://h:6379. Fix it",
        "(redis://h:6379), [redis://h:6379], redis://h:6379: refused",
    ],
)
def test_a_text_without_passwords_is_unchanged(text: str) -> None:
    assert mask_text(text) == text


@pytest.mark.timeout(60)  # a pattern that looks back from each character would take many minutes
@pytest.mark.parametrize(
    "part",
    [
        "?pass",
        "&pass=a",
        "redis://",
        "redis://a:",
        "@",
        ":",
        "/a:b",
        ",",
        "a:1,",
        "| ",
        "https://",
        "&ab=c@",
        "%3",
        "?a%3",
    ],
)
def test_masking_a_long_text_takes_no_long_time(part: str) -> None:
    url = f"redis://h/{part * 4_000}?password=hunter2"
    assert "hunter2" not in mask(url) + mask_text(url.replace(" ", ""))
    mask_text(url)


def test_promise_21_an_address_in_which_a_library_would_end_the_password_early_is_refused() -> None:
    """It would look for the beginning of the password, and its errors print what it looks for."""
    for url in ("redis://u:70/71@h", "redlock://u:70,71@h1,h2,h3", "postgresql://u:p@70@h/d", "sqlite://u:70@h"):
        with pytest.raises(LockConfigError, match=r"\*\*\*@h") as caught:
            open_store(url)
        assert "70" not in str(caught.value)
    for kind, url in ((RedisStore, "redis://u:[70]@h"), (RedisClusterStore, "redis+cluster://u:7℀0@h")):
        with pytest.raises(LockConfigError, match="%40") as caught:
            kind(url)
        assert "7" not in "".join(traceback.format_exception(caught.value)).split("LockConfigError")[-1]


@pytest.mark.parametrize("url", ["redis://u:hunter/2@h", "redis://u:[hunter@h", "redis://:hun:ter@h:port/0"])
def test_promise_21_no_error_shows_a_password(url: str) -> None:
    """Python itself quotes what it takes for the port, and in the causes of an error too."""
    with pytest.raises(LockConfigError, match="%40") as caught:
        open_store(url)
    assert "hun" not in "".join(traceback.format_exception(caught.value))


def test_an_address_that_cannot_be_read_states_why() -> None:
    with pytest.raises(LockConfigError, match=r"redis://h:\*\*\*, can't be read: .*digits as the port"):
        open_store("redis://h:99x/0")
    with pytest.raises(LockConfigError, match="the parameter socket_timeout has a value of another kind"):
        open_store("redis://u:secret@h/0?socket_timeout=soon")


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("celery_locks.stores.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(LockConfigError, match=r"needs the package redis: pip install 'celery-locks\[redis\]'"):
        open_store("redis://localhost")
