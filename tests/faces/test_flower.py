"""The addresses of locks in Flower: who may come in, what is refused, what is answered, and what it costs the store."""

from __future__ import annotations

import json
import re
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tornado.web import create_signed_value

from celery_locks import Locks
from celery_locks.flower.history import MOST_KEYS
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.commands import lock_command
from celery_locks.stores.redis.wire.protocol import packed
from tests.support.flower import ODD_KEYS, Answer, Flower
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(300)]

APP = "tests.support.flower_app"
PASSWORD = "s3cr%t/pass"


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


LOGIN, ODD_LOGIN = basic("ann", "pa:ss"), basic("b\nob", "x")
#: What a name would be to add a line to Flower's log.
FORGED = "boss\n[I 990101 00:00:00 panel:79] all is well"
COOKIE_SECRET = "of the tests"
PAGES = ["/locks", "/locks/data", "/locks/key?key=a", "/locks/key/data?key=a", "/locks/static/locks.js"]
API = ["/api/locks", "/api/locks/key?key=a"]
RELEASES = ["/locks/release", "/api/locks/release"]


class Site:
    """A server that only the panel talks to by the proxy, and Flowers of all kinds that show it."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.server = stack.enter_context(RedisServer(password=PASSWORD))
        self.proxy = stack.enter_context(Proxy(self.server.port))
        self.locks = Locks(self.server.url(1))
        self.db = folder / "flower.db"
        self.env = {
            "FLOWERS_URL": self.server.url(0),
            "FLOWER_LOCKS_URL": self.server.url(1, port=self.proxy.port),
            "FLOWER_LOCKS_POLL": "0",  # nothing is read but what a request reads
        }
        self.closed = ["--url_prefix=a/b", "--read_only=True", "--basic_auth=ann:pa:ss", "--persistent=True"]
        self.closed += [f"--db={self.db}"]
        oauth = ["--auth=.*@example.com", "--auth_provider=flower.views.auth.GoogleAuth2LoginHandler"]
        oauth += ["--oauth2_key=key", "--oauth2_secret=secret", "--oauth2_redirect_uri=http://localhost/login"]
        oauth += [f"--cookie_secret={COOKIE_SECRET}"]
        anyone = {**self.env, "FLOWER_UNAUTHENTICATED_API": "true"}
        hosts = ["--locks_hosts=flower.example.org, Other.Example.org:8080,https://evil.example,*.evil.example"]
        with ThreadPoolExecutor() as pool:
            made = [
                pool.submit(Flower, APP, env=self.env),
                pool.submit(Flower, APP, ["--basic_auth=ann:pa:ss,b\nob:x"], env=self.env),
                pool.submit(Flower, APP, self.closed, env=self.env, ready="/a/b/healthcheck"),
                pool.submit(Flower, APP, oauth, env=self.env),
                pool.submit(Flower, APP, hosts, env=anyone),
            ]
            served = [stack.enter_context(each.result(110)) for each in made]
        self.plain, self.basic, self.read_only, self.oauth, self.open = served


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, tmp_path_factory.mktemp("flower"))


def page_of_key(flower: Flower, key: str = "a") -> tuple[str, dict[str, str]]:
    """A key's page, and the headers that its script sends."""
    answer = flower.get(f"/locks/key?key={quote(key)}", LOGIN)
    assert answer.status == 200
    cookie = re.match(r"_xsrf=[^;]+", answer.headers["Set-Cookie"])
    token = re.search(r'data-xsrf="([^"]+)"', answer.text)
    assert cookie
    assert token
    return answer.text, {**LOGIN, "Cookie": cookie[0], "X-XSRFToken": token[1]}


def release(flower: Flower, path: str, key: str, fencing_token: int, headers: dict[str, str]) -> Answer:
    return flower.post(path, {"key": key, "fencing_token": fencing_token}, headers)


def test_promise_25_no_address_without_a_login(site: Site) -> None:
    with site.locks.lock("a") as lease:
        for path in PAGES:
            assert site.basic.get(path).status == 401, path
            assert site.basic.get(path, LOGIN).status == 200, path
            refused = site.oauth.get(path)
            assert (refused.status, refused.headers["Location"].split("?")[0]) == (302, "/login"), path
        for path in API:
            assert site.basic.get(path).status == 401, path
            assert site.basic.get(path, LOGIN).status == 200, path
            assert site.plain.get(path).status == 401, f"{path} is closed until a login is set up"
            assert site.oauth.get(path).status == 302, path
        for path in RELEASES:
            for flower in (site.basic, site.oauth):
                assert release(flower, path, "a", lease.fencing_token, {}).status in (401, 403), path
        assert release(site.plain, RELEASES[1], "a", lease.fencing_token, {}).status == 401
        lease.extend()


def test_promise_25_only_a_post_with_its_token_releases(site: Site) -> None:
    lease = site.locks.lock("a").acquire(timeout=30)
    _, headers = page_of_key(site.open)
    fence, tokenless = lease.fencing_token, {key: headers[key] for key in headers if key != "X-XSRFToken"}
    for path in RELEASES:
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            refused = site.basic.ask(method, f"{path}?key=a&fencing_token={fence}", headers=LOGIN)
            assert refused.status in (403, 405), (method, path)
    for headers_of_a_forger in (
        {},
        tokenless,
        {**headers, "X-XSRFToken": "2|00000000|00000000|0"},
        {**headers, "Cookie": "_xsrf=2|00000000|00000000|0"},
        {**headers, "Origin": "http://elsewhere.example"},
        {**headers, "Sec-Fetch-Site": "cross-site"},
    ):
        for flower in (site.open, site.basic):
            answer = release(flower, RELEASES[0], "a", fence, {**LOGIN, **headers_of_a_forger})
            assert answer.status == 403, (headers_of_a_forger, answer)
    for forged in ({"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "same-site"}):
        assert release(site.basic, RELEASES[1], "a", fence, {**LOGIN, **forged}).status == 403
    form = f"key=a&fencing_token={fence}".encode()
    types = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    assert site.open.ask("POST", RELEASES[0], form, types).status == 400
    lease.extend()
    assert release(site.open, RELEASES[0], "a", fence, headers).json()["released"] is True
    assert site.locks.lock("a").holders() == ()
    assert lease.release() is False


def test_promise_25_read_only_is_respected(site: Site) -> None:
    flower = site.read_only
    with site.locks.lock("a") as lease:
        page = flower.get("/a/b/locks/key?key=a", LOGIN)
        assert page.status == 200
        assert "data-release-url" not in page.text
        assert "lock-dialog" not in page.text
        assert "No lease can be released here: Flower is read-only." in page.text
        cookie, token = "_xsrf=0123456789abcdef", "0123456789abcdef"
        for path in RELEASES:
            headers = {**LOGIN, "Cookie": cookie, "X-XSRFToken": token}
            answer = release(flower, f"/a/b{path}", "a", lease.fencing_token, headers)
            assert (answer.status, answer.json()["error"]) == (403, "Flower is read-only")
        lease.extend()


STALE = {"key": "a", "fencing_token": 1}
XSRF = {"Cookie": "_xsrf=0123456789abcdef", "X-XSRFToken": "0123456789abcdef"}


def test_promise_47_without_a_login_nothing_is_released(site: Site) -> None:
    with site.locks.lock("a") as lease:
        page = site.plain.get("/locks/key?key=a")
        assert "data-release-url" not in page.text
        assert "data-xsrf" not in page.text
        assert "set one up with --basic_auth or --auth" in page.text
        for headers in ({}, XSRF, {**XSRF, **LOGIN}, {**XSRF, "X-Forwarded-User": "ann"}):
            refused = release(site.plain, RELEASES[0], "a", lease.fencing_token, headers)
            assert refused.status == 403, headers
            assert "--basic_auth" in refused.json()["error"]
            assert "FLOWER_UNAUTHENTICATED_API=true" in refused.json()["error"]
            assert release(site.plain, RELEASES[1], "a", lease.fencing_token, headers).status == 401
        lease.extend()
        assert "data-release-url" in site.open.get("/locks/key?key=a").text


OWN_HOSTS = ["127.0.0.1:5555", "10.1.2.3", "[::1]:5555", "[2001:DB8::1]", "localhost", "LocalHost.:80", "localhost:"]
OWN_HOSTS += ["a.b.localhost:5555", "flower.example.org", "FLOWER.Example.org.:8443", "other.example.org"]
OTHER_HOSTS = ["evil.example", "evil.example:5555", "127.0.0.1.evil.example", "localhost.evil.example", "notlocalhost"]
OTHER_HOSTS += ["x.flower.example.org", "flower.example.org.evil.example", "127.1", "2130706433", "0x7f.0.0.1"]
MALFORMED_HOSTS = ["", ".localhost", "a..localhost", "localhost..", "[::1", "[evil.example]", "::1", "localhost:x"]
MALFORMED_HOSTS += ["localhost:80:80", "evil.example@localhost", "localhost@evil.example", "evil.example/localhost"]
MALFORMED_HOSTS += ["localhost,evil.example", "localhost, localhost", "local host", "local\u00adhost", "\u2460.0.0.1"]


@pytest.mark.parametrize("host", [*OWN_HOSTS, "the machine's"])
def test_promise_47_own_names_release_without_a_login(site: Site, host: str) -> None:
    host = socket.gethostname() if host == "the machine's" else host
    for path in RELEASES:
        answer = site.open.post(path, STALE, {**XSRF, "Host": host})
        assert (answer.status, answer.json()) == (200, {"released": False, "owner": None}), answer


@pytest.mark.parametrize("host", [*OTHER_HOSTS, *MALFORMED_HOSTS])
def test_promise_47_other_names_release_nothing_without_a_login(site: Site, host: str) -> None:
    """A page of another site that binds its name to this machine is of the same origin for a browser."""
    raw = host.encode().decode("latin-1")
    with site.locks.lock("a") as lease:
        for path in RELEASES:
            named = {**XSRF, "Host": raw, "X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}
            try:
                answer = release(site.open, path, "a", lease.fencing_token, named)
            except ConnectionError:
                continue  # Tornado has refused it without reading the body
            assert answer.status in (400, 403), "Tornado refuses some of them itself"
            if answer.status == 403:
                assert "--locks_hosts" in answer.json()["error"]
        page = site.open.get("/locks/key?key=a", {"Host": raw})
        assert page.status in (200, 400)
        assert "data-release-url" not in page.text
        lease.extend()


def test_an_option_that_names_no_host_is_warned_of(site: Site) -> None:
    for given in ("https://evil.example", "*.evil.example"):
        assert f"--locks_hosts: {given} is not a host name" in site.open.log()
    assert "Other.Example.org" not in site.open.log()


@pytest.mark.parametrize("hosts", [[], ["localhost", "evil.example"], ["evil.example", "localhost"]])
def test_promise_47_a_request_has_one_host(site: Site, hosts: list[str]) -> None:
    with site.locks.lock("a") as lease:
        body = json.dumps({"key": "a", "fencing_token": lease.fencing_token})
        lines = ["POST /api/locks/release HTTP/1.0", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"Host: {host}" for host in hosts]
        with socket.create_connection(("127.0.0.1", site.open.port), timeout=30) as connection:
            connection.sendall("\r\n".join([*lines, "", body]).encode())
            status = connection.makefile("rb").readline().split()[1]
        assert status in (b"400", b"403")
        lease.extend()


def test_promise_47_behind_a_proxy_a_login_is_enough(site: Site) -> None:
    with site.locks.lock("a"):
        _, headers = page_of_key(site.basic)
        for path in RELEASES:
            assert site.basic.post(path, STALE, {**headers, "Host": "flower.internal"}).status == 200


def test_promise_47_who_released_is_who_flower_authenticated(site: Site) -> None:
    cookie = create_signed_value(COOKIE_SECRET, "user", "eve@example.com").decode()
    by_oauth = {**XSRF, "Cookie": f"{XSRF['Cookie']}; user={cookie}"}
    forged = {**basic(FORGED, "x"), "X-Forwarded-User": FORGED.split()[0], "X-Real-Ip": "6.6.6.6"}
    asked = (
        (site.open, RELEASES[0], {**XSRF, **forged}, "unauthenticated"),
        (site.open, RELEASES[1], forged, "unauthenticated"),
        (site.basic, RELEASES[0], {**XSRF, **LOGIN}, "ann"),
        (site.basic, RELEASES[1], ODD_LOGIN, "b\\nob"),
        (site.oauth, RELEASES[0], {**by_oauth, **forged}, "eve@example.com"),
        (site.oauth, RELEASES[1], by_oauth, "eve@example.com"),
    )
    for number, (flower, path, headers, name) in enumerate(asked):
        key = f"who:{number}"
        lease = site.locks.lock(key, owner=f"me\n{FORGED}").acquire(timeout=30)
        assert release(flower, path, key, lease.fencing_token, headers).json()["released"], (path, name)
        seen = flower.get(f"/locks/key/data?key={key}", headers).json()["history"]["entries"][0]
        assert (seen["kind"], seen["reason"]) == ("force_released", f"by {name}, in Flower")
        assert f"'{key}', held by me\\nboss\\n[I 990101 " in flower.log()
        assert f"was released in Flower by {name}\n" in flower.log()
        assert lease.release() is False
    for flower in (site.open, site.basic, site.oauth):
        assert "\n[I 990101" not in flower.log()
        assert "6.6.6.6" not in flower.log()


def test_under_a_prefix_all_addresses_have_it(site: Site) -> None:
    flower = site.read_only
    for path in ("/locks", "/locks/key?key=a", "/workers", "/tasks"):
        page = flower.get(f"/a/b{path}", LOGIN).text
        assert 'href="/a/b/locks"' in page, path
        addresses = re.findall(r'(?:href|src|data-[a-z]+-url)="([^"#]*)"', page)
        assert [each for each in addresses if not each.startswith(("/a/b/", "https://"))] == []
        for address in addresses:
            if address.startswith("/a/b/locks/static/"):
                assert flower.get(address, LOGIN).status == 200
    assert flower.get("/a/b/api/locks", LOGIN).json()["locks"] == []


BAD_QUERIES = ["count=0", "count=501", "count=-1", "count=x", "count=1e2", "count=5.0", "count=%2B5", "count=%205"]
BAD_QUERIES += ["count=000000001000", "count=0000000019999", f"count=000000001{'0' * 5000}", f"count={'9' * 5000}"]
BAD_QUERIES += ["count=", "count=5%0A", "count=5_0", "count=%D9%A5", "count=%C2%B2"]  # an Arabic 5, a superscript 2
BAD_QUERIES += ["prefix=%ff", "after=%ff", "count=1&count=2", "prefix=a&prefix=b"]


@pytest.mark.parametrize("query", BAD_QUERIES, ids=lambda query: query[:20])
def test_promise_25_pages_are_bounded(site: Site, query: str) -> None:
    for path in ("/locks/data", "/api/locks"):
        answer = site.basic.get(f"{path}?{query}", LOGIN)
        assert answer.status == 400
        assert "error" in answer.json()


def test_a_number_may_begin_with_zeros(site: Site) -> None:
    for count in ("00000000000000000500", "0" * 10_000 + "1"):
        assert site.basic.get(f"/api/locks?count={count}", LOGIN).status == 200


BAD_TOKENS = f"""NaN Infinity 7.0 1e3 -1 0 true null "7" [7] 007 {2**63} {10**30} {"9" * 5000}""".split()
BAD_BODIES = [
    *(f'{{"key": "a", "fencing_token": {token}}}' for token in BAD_TOKENS),
    '{"key": "a", "key": "b", "fencing_token": 1}',
    '{"key": "a", "fencing_token": 1, "fencing_token": 2}',
    '{"key": "\\ud800", "fencing_token": 1}',
    f'{{"key": "{"x" * 16_385}", "fencing_token": 1}}',
    f'{{"key": "a", "fencing_token": 1, "more": "{"x" * 200_000}"}}',
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: body[:50])
def test_a_release_names_a_key_and_a_number(site: Site, body: str) -> None:
    headers = {**LOGIN, "Content-Type": "application/json"}
    answer = site.basic.ask("POST", "/api/locks/release", body.encode(), headers)
    assert answer.status == 400
    assert "error" in answer.json()


def test_promise_25_what_is_no_key_is_refused(site: Site) -> None:
    for key in ("", "%ff", "%ed%a0%80", "x" * 20_000):
        for path in ("/locks/key/data", "/api/locks/key"):
            assert site.basic.get(f"{path}?key={key}", LOGIN).status == 400, key[:10]
    assert site.basic.get("/locks/key", LOGIN).status == 404
    assert site.basic.get("/locks/static/../handlers.py", LOGIN).status == 404
    assert site.basic.get("/locks/static/..%2fhandlers.py", LOGIN).status == 404
    for body in ({}, {"key": "a"}, {"key": 7, "fencing_token": 1}, {"key": "a", "fencing_token": "1"}, [], None):
        assert site.basic.post("/api/locks/release", body, LOGIN).status == 400, body
    assert release(site.basic, "/api/locks/release", "", 1, LOGIN).status == 400
    assert (
        site.basic.ask(
            "POST", "/api/locks/release", b"[" * 100_000, {**LOGIN, "Content-Type": "application/json"}
        ).status
        == 400
    )


def test_programs_see_and_release(site: Site) -> None:
    before = time.time() * 1000
    held = [site.locks.lock(key, ttl=30, owner=f"owner of {key}").acquire() for key in ("p:1", "p:2", "p:3", "q:1")]
    first = site.basic.get("/api/locks?prefix=p:&count=2", LOGIN).json()
    assert [lock["key"] for lock in first["locks"]] == ["p:1", "p:2"]
    rest = site.basic.get(f"/api/locks?prefix=p:&count=2&after={quote(first['next'])}", LOGIN).json()
    assert ([lock["key"] for lock in rest["locks"]], rest["next"]) == (["p:3"], None)
    assert first["stats"]["holders"] == 4
    assert first["stats"]["oldest"] == "p:1"
    url = site.locks.url.replace(str(site.server.port), str(site.proxy.port))
    assert first["store"] == {"name": "default", "url": url, "prefix": "celery-locks", "shared": True}
    assert first["stats"]["oldest"] == "p:1"
    (holder,) = first["locks"][0]["holders"]
    assert before - 5000 < holder["since"] < time.time() * 1000 + 5000
    assert 20_000 < holder["until"] - holder["since"] < 60_000 + time.time() * 1000 - before
    one = site.basic.get("/api/locks/key?key=p:2", LOGIN).json()
    assert (one["key"], one["permits"], one["limit"], one["waiting"], one["line"]) == ("p:2", 1, 1, 0, [])
    assert one["holders"][0]["owner"] == "owner of p:2"
    assert one["holders"][0]["fencing_token"] == held[1].fencing_token
    stale = release(site.basic, "/api/locks/release", "p:2", held[1].fencing_token - 1, LOGIN)
    assert stale.json() == {"released": False, "owner": None}
    answer = release(site.basic, "/api/locks/release", "p:2", held[1].fencing_token, LOGIN)
    assert answer.json() == {"released": True, "owner": "owner of p:2"}
    assert [lease.release() for lease in held] == [True, False, True, True]
    assert "'p:2', held by owner of p:2, was released in Flower by ann" in site.basic.log()
    history = site.basic.get("/api/locks/key?key=p:2", LOGIN).json()["history"]
    assert history["entries"][0]["kind"] == "force_released"
    assert history["entries"][0]["reason"] == "by ann, in Flower"


def test_a_part_of_a_key_is_seen_and_released_by_itself(site: Site) -> None:
    """As ``until_and_while_executing`` holds it from the call on."""
    call = site.locks.lock("part:1", ttl=30, owner="shop.sync[id-1] called by web1:7")
    call._name = site.locks._space.name("part:1", "call")
    taken = call.acquire(timeout=30)
    with site.locks.lock("part:1", ttl=30, owner="me") as run:
        listed = site.basic.get("/api/locks?prefix=part:", LOGIN).json()["locks"]
        assert [(each["key"], each["part"]) for each in listed] == [("part:1", ""), ("part:1", "call")]
        of_part = site.basic.get("/api/locks/key?key=part:1&part=call", LOGIN).json()
        (holder,) = of_part["holders"]
        assert (of_part["part"], holder["state"], holder["worker"]) == ("call", "called", None)
        of_key = site.basic.get("/api/locks/key?key=part:1", LOGIN).json()
        assert (of_key["part"], of_key["parts"], of_part["parts"]) == ("", ["call"], [])
        for wrong, status in (("calls", 400), (7, 400)):
            body = {"key": "part:1", "part": wrong, "fencing_token": taken.fencing_token}
            assert site.basic.post("/api/locks/release", body, LOGIN).status == status
        assert site.basic.get("/locks/key/data?key=part:1&part=calls", LOGIN).status == 400
        body = {"key": "part:1", "part": "call", "fencing_token": taken.fencing_token}
        answer = site.basic.post("/api/locks/release", body, LOGIN).json()
        assert answer == {"released": True, "owner": "shop.sync[id-1] called by web1:7"}
        run.extend()
    assert taken.release() is False
    assert "'part:1' (part call), held by shop.sync[id-1]" in site.basic.log()
    kinds = [
        [entry["kind"] for entry in site.basic.get(path, LOGIN).json()["history"]["entries"]]
        for path in ("/api/locks/key?key=part:1&part=call", "/api/locks/key?key=part:1")
    ]
    assert "force_released" in kinds[0]
    assert "force_released" not in kinds[1]


def test_promise_25_exactly_the_odd_key_is_released(site: Site) -> None:
    odd = [*ODD_KEYS, "x" * 4000, "x" * 4001, "a", " a", "a ", "a\x00", "A"]
    leases = {key: site.locks.lock(key, owner=f"owner of {odd.index(key)}").acquire(timeout=30) for key in odd}
    for key in odd:
        (holder,) = site.basic.get(f"/api/locks/key?key={quote(key, safe='')}", LOGIN).json()["holders"]
        assert holder["owner"] == f"owner of {odd.index(key)}"
        answer = release(site.basic, "/api/locks/release", key, holder["fencing_token"], LOGIN)
        assert answer.json() == {"released": True, "owner": holder["owner"]}
        assert leases.pop(key).release() is False
        assert {info.key for info in site.locks.list().items} == {lease.key for lease in leases.values()}


def test_no_secret_is_shown(site: Site) -> None:
    with site.locks.lock("a") as lease:
        answers = [site.basic.get(path, LOGIN) for path in (*PAGES, *API)]
        site.proxy.refuse()
        try:
            answers += [site.basic.get(path, LOGIN) for path in (*PAGES, *API)]
        finally:
            site.proxy.heal()
        for answer in answers:
            assert lease.token not in answer.text
            assert "s3cr" not in answer.text
        assert [answer.status for answer in answers].count(503) == 4
    for flower in (site.plain, site.basic, site.read_only, site.oauth, site.open):
        assert "s3cr" not in flower.log()


def test_a_page_that_did_not_change_is_not_sent_again(site: Site) -> None:
    with site.locks.lock("a", ttl=60, renew=False):
        first = site.plain.get("/locks/data")
        again = site.plain.get("/locks/data", {"If-None-Match": first.headers["Etag"]})
        while again.status == 200:  # a tenth of a second ended between the two
            first, again = again, site.plain.get("/locks/data", {"If-None-Match": again.headers["Etag"]})
        assert (again.status, again.text) == (304, "")
        assert int(again.headers["X-Locks-Now"]) >= int(first.headers["X-Locks-Now"])


def test_pages_run_no_script_but_their_own(site: Site) -> None:
    for path in ("/locks", "/locks/key?key=a"):
        page = site.plain.get(path)
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert "frame-ancestors 'self'" in page.headers["Content-Security-Policy"]
        assert re.findall(r"<script(?![^>]*\bsrc=)", page.text) == []
        assert re.findall(r"\son[a-z]+=|\sstyle=|javascript:", page.text) == []
    key = '"><script>hacked()</script>'
    assert "hacked" not in site.plain.get(f"/locks/key?key={quote(key)}").text


#: Seconds within which all is answered: 5, on a machine that has nothing else to do. A queue would take a minute.
BOUND = 15.0


def test_a_store_that_hangs_holds_up_nothing_else(site: Site) -> None:
    assert site.open.get("/locks/data").status == 200

    def timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
        began = time.monotonic()
        answer = call()
        return time.monotonic() - began, answer

    def read(number: int) -> tuple[float, Answer]:
        paths = ("/locks/data", f"/locks/data?prefix={number}", f"/locks/key/data?key={number}")
        return timed(lambda: site.open.get(paths[number % 3]))

    def free(number: int) -> tuple[float, Answer]:
        return timed(lambda: release(site.open, "/api/locks/release", f"{number}", 1, {}))

    site.proxy.hang()
    try:
        with ThreadPoolExecutor(68) as pool:
            reads = [pool.submit(read, number) for number in range(60)]
            frees = [pool.submit(free, number) for number in range(8)]
            for path in ("/workers", "/healthcheck", "/locks/key?key=a"):
                took, answer = timed(partial(site.open.get, path))
                assert answer.status == 200
                assert took < BOUND, f"Flower itself was held up: {path} took {took:.1f} s"
            seen = [each.result(60) for each in reads]
            freed = [each.result(60) for each in frees]
    finally:
        site.proxy.heal()
    took = max(took for took, _ in seen + freed)
    print(f"60 reads and 8 releases of a store that hangs: the last one answered after {took:.1f} s")
    assert took < BOUND
    assert {answer.status for _, answer in seen + freed} == {503}
    assert all(set(answer.json()) == {"error"} for _, answer in seen)
    refused = [answer for _, answer in seen if "4 reads are running" in answer.text]
    assert len(refused) > 20, "requests that found no thread were not refused as such"
    prefixes = {answer.json()["error"].partition(": ")[0] for _, answer in freed}
    assert prefixes == {"nothing was released", "the lease may have been released all the same"}
    eventually(lambda: site.open.get("/locks/data").status == 200, 30)
    lease = site.locks.lock("a").acquire(timeout=30)
    assert release(site.open, "/api/locks/release", "a", lease.fencing_token, {}).json()["released"]


def test_metrics_have_no_key(site: Site) -> None:
    with site.locks.lock("a-key-of-its-own", owner="an-owner-of-its-own"):
        assert "a-key-of-its-own" in site.plain.get("/locks/data").text
        metrics = site.plain.get("/metrics")
        assert metrics.status == 200
        assert "of-its-own" not in metrics.text


def test_without_the_plugin_flower_and_its_file_still_load(site: Site) -> None:
    """It was persistent while it showed locks; then this package goes."""
    assert site.read_only.get("/a/b/locks/data", LOGIN).status == 200
    assert site.read_only.stop() == 0
    assert list(site.db.parent.glob("flower.db*")), site.read_only.log()
    with Flower(
        APP, site.closed, env={"FLOWERS_URL": site.env["FLOWERS_URL"]}, plugin=False, ready="/a/b/healthcheck"
    ) as flower:
        assert flower.get("/a/b/workers", LOGIN).status == 200
        assert "/a/b/locks" not in flower.get("/a/b/workers", LOGIN).text
        assert flower.get("/a/b/locks", LOGIN).status == 404
        assert "Failed to load state" not in flower.log()
        assert not list(site.db.parent.glob("*.corrupt"))


MANY = 100_000


def hold_many(server: RedisServer, locks: Locks, count: int) -> None:
    """Real acquisitions, packed by hand: a client would take longer over it than the server."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(packed(("AUTH", PASSWORD)) + packed(("SELECT", "1")))
        assert [answers.readline(), answers.readline()] == [b"+OK\r\n"] * 2
        for start in range(0, count, 1000):
            keys = [f"many:{number:06}" for number in range(start, min(start + 1000, count))]
            terms = ("600000000", "1", "1", "me", "0", "100")
            commands = [lock_command(scripts.ACQUIRE, locks._space.name(key), key, *terms) for key in keys]
            connection.sendall(b"".join(commands))
            for _ in keys:
                assert answers.readline().startswith(b":")


def test_promise_48_a_scan_pushes_no_history_out(site: Site) -> None:
    lease = site.locks.lock("freed").acquire(timeout=30)
    assert release(site.basic, "/api/locks/release", "freed", lease.fencing_token, LOGIN).json()["released"]
    hold_many(site.server, site.locks, MOST_KEYS + 300)
    after: str | None = ""
    while after is not None:
        after = site.basic.get(f"/locks/data?prefix=many:&count=500&after={after}", LOGIN).json()["next"]

    def history(key: str) -> dict[str, Any]:
        known: dict[str, Any] = site.basic.get(f"/api/locks/key?key={key}", LOGIN).json()["history"]
        return known

    assert [entry["kind"] for entry in history("freed")["entries"]] == ["force_released"]
    assert [entry["kind"] for entry in history("many:000000")["entries"]] == ["acquired"]
    now = time.time() * 1000
    assert now - 60_000 < history("freed")["since"] < history(f"many:{MOST_KEYS + 299:06}")["since"] + 100 < now + 5_000
    assert history("never-held")["since"] is None


def test_100_000_locks_cost_a_page_what_10_cost(site: Site) -> None:
    site.locks.lock("warm").acquire().release()
    counted = {}
    for count in (10, MANY):
        hold_many(site.server, site.locks, count)
        for path in ("/locks/data", "/locks/key/data?key=many:000007"):  # an idle connection may have been closed
            assert site.plain.get(path).status == 200
        site.proxy.commands.clear()
        for path in (
            "/locks/data?prefix=many:",
            "/locks/data?after=many:000003&count=50",
            "/locks/key/data?key=many:000007",
        ):
            assert site.plain.get(path).status == 200
        counted[count] = list(site.proxy.commands)
    assert counted[10] == counted[MANY] == ["EVALSHA"] * 6  # two for each page; a key may have parts
    took = []
    for number in range(20):
        began = time.perf_counter()
        answer = site.plain.get(f"/locks/data?after=many:{number * 4000:06}&count=100")
        took.append(time.perf_counter() - began)
        data = answer.json()
        assert data["locks"][0]["key"] == f"many:{number * 4000 + 1:06}"
        assert (len(data["locks"]), data["stats"]["locks"]) == (100, MANY)
    print(f"a page of 100 of {MANY} locks: median {sorted(took)[10] * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms")
    assert min(took) < 0.2, f"{min(took):.3f} s at best"
