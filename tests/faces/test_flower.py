"""The addresses of locks in Flower: who may come in, what is refused, what is answered, and what it costs the store."""

from __future__ import annotations

import re
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from celery_locks import Locks
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.calls import command_of
from celery_locks.stores.redis.protocol import packed
from tests.support.flower import ODD_KEYS, Answer, Flower
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.timeout(300)]

APP = "tests.support.flower_app"
PASSWORD = "s3cr%t/pass"
LOGIN = {"Authorization": "Basic " + b64encode(b"ann:pa:ss").decode()}
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
        with ThreadPoolExecutor() as pool:
            made = [
                pool.submit(Flower, APP, env=self.env),
                pool.submit(Flower, APP, ["--basic_auth=ann:pa:ss"], env=self.env),
                pool.submit(Flower, APP, self.closed, env=self.env, ready="/a/b/healthcheck"),
                pool.submit(Flower, APP, oauth, env=self.env),
            ]
            served = [stack.enter_context(each.result(110)) for each in made]
        self.plain, self.basic, self.read_only, self.oauth = served


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
    _, headers = page_of_key(site.plain)
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
        for flower in (site.plain, site.basic):
            answer = release(flower, RELEASES[0], "a", fence, {**LOGIN, **headers_of_a_forger})
            assert answer.status == 403, (headers_of_a_forger, answer)
    for forged in ({"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "same-site"}):
        assert release(site.basic, RELEASES[1], "a", fence, {**LOGIN, **forged}).status == 403
    form = f"key=a&fencing_token={fence}".encode()
    types = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    assert site.plain.ask("POST", RELEASES[0], form, types).status == 400
    lease.extend()
    assert release(site.plain, RELEASES[0], "a", fence, headers).json()["released"] is True
    assert site.locks.lock("a").holders() == ()
    assert lease.release() is False


def test_promise_25_read_only_is_respected(site: Site) -> None:
    flower = site.read_only
    with site.locks.lock("a") as lease:
        page = flower.get("/a/b/locks/key?key=a", LOGIN)
        assert page.status == 200
        assert "data-release-url" not in page.text
        assert "lock-dialog" not in page.text
        cookie, token = "_xsrf=0123456789abcdef", "0123456789abcdef"
        for path in RELEASES:
            headers = {**LOGIN, "Cookie": cookie, "X-XSRFToken": token}
            answer = release(flower, f"/a/b{path}", "a", lease.fencing_token, headers)
            assert (answer.status, answer.json()["error"]) == (403, "Flower is read-only")
        lease.extend()


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


@pytest.mark.parametrize(
    "query",
    ["count=0", "count=501", "count=-1", "count=x", "count=1e2", f"count={'9' * 5000}", "prefix=%ff", "after=%ff"],
)
def test_promise_25_pages_are_bounded(site: Site, query: str) -> None:
    for path in ("/locks/data", "/api/locks"):
        answer = site.basic.get(f"{path}?{query}", LOGIN)
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
    assert first["store"] == {"url": url, "prefix": "celery-locks", "shared": True}
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
    assert history["entries"][0]["kind"] == "freed"
    assert history["entries"][0]["reason"] == "by ann, in Flower"


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


def test_nothing_secret_is_told(site: Site) -> None:
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
    for flower in (site.plain, site.basic, site.read_only, site.oauth):
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


def test_a_store_that_hangs_holds_up_nothing_else(site: Site) -> None:
    assert site.plain.get("/locks/data").status == 200
    site.proxy.hang()
    try:
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(site.plain.get, "/locks/data") for _ in range(8)]
            assert site.plain.get("/workers").status == 200
            assert site.plain.get("/healthcheck").status == 200
            assert not all(each.done() for each in waiting), "Flower itself was held up"
            answers = [each.result(60) for each in waiting]
        assert {answer.status for answer in answers} == {503}
        assert "locks" not in answers[0].json()
    finally:
        site.proxy.heal()
    assert site.plain.get("/locks/data").status == 200


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
            commands = [command_of(scripts.ACQUIRE, locks.name(key), key, *terms) for key in keys]
            connection.sendall(b"".join(commands))
            for _ in keys:
                assert answers.readline().startswith(b":")


def test_100_000_locks_cost_a_page_what_10_cost(site: Site) -> None:
    site.locks.lock("warm").acquire().release()
    for path in ("/locks/data", "/locks/key/data?key=many:000007"):
        assert site.plain.get(path).status == 200
    counted = {}
    for count in (10, MANY):
        hold_many(site.server, site.locks, count)
        site.proxy.commands.clear()
        for path in (
            "/locks/data?prefix=many:",
            "/locks/data?after=many:000003&count=50",
            "/locks/key/data?key=many:000007",
        ):
            assert site.plain.get(path).status == 200
        counted[count] = list(site.proxy.commands)
    assert counted[10] == counted[MANY] == ["EVALSHA"] * 5
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
