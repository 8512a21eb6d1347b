"""The page of locks in the admin, through Django's test client."""

from __future__ import annotations

import re
from html import escape, unescape
from urllib.parse import parse_qs, urlencode

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.core import signing
from django.db import DatabaseError
from django.db.models.signals import pre_save
from django.test import Client
from django.utils.html import strip_tags
from shop.celery import app
from shop.tasks import describe, twice

from celery_locks import Locks, StoreUnavailable, owners
from celery_locks.contrib.django.lease_reference import LeaseReference
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import Ticket, tickets_of
from celery_locks.stores.types import Claim

URL = "/admin/celery_locks/lock/"
EVIL = "user:<script>alert(1)</script>&'\""


def client_of(*permissions: str, csrf: bool = False) -> Client:
    user, _ = User.objects.get_or_create(username="-".join(permissions) or "staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client(enforce_csrf_checks=csrf)
    client.force_login(user)
    return client


@pytest.fixture
def viewer() -> Client:
    return client_of("view_lock")


@pytest.fixture
def releaser() -> Client:
    return client_of("view_lock", "release_lock")


def text_of(response) -> str:
    return response.content.decode().replace("<wbr>", "")


def test_the_index_of_the_admin_names_it(viewer) -> None:
    assert f'href="{URL}"' in text_of(viewer.get("/admin/"))
    assert URL not in text_of(client_of().get("/admin/"))


def test_held_locks(viewer, held_lock) -> None:
    with held_lock("user:7", by="shop.sync[abc] on w1"), held_lock(EVIL, by="<b>me</b>"):
        page = text_of(viewer.get(URL))
        assert "2 keys held or waited for" in page
        assert "<td><bdi>shop.sync</bdi></td>" in page
        assert "<script>alert" not in page
        assert "<b>me</b>" not in page
        assert "&lt;script&gt;alert(1)" in page
        link = re.search(r'href="(/admin/celery_locks/lock/key/\?key=user%3A%3Cscript[^"]*)"', page)
        assert "&lt;b&gt;me&lt;/b&gt;" in text_of(viewer.get(link[1].replace("&amp;", "&")))
    assert "None." in text_of(viewer.get(URL))


def test_search_and_pages(viewer, celery_locks, monkeypatch) -> None:
    monkeypatch.setattr("celery_locks.contrib.django.admin.PAGE_ROWS", 2)
    for number in range(5):
        assert celery_locks.lock(f"user:{number}&x=1", ttl=600).try_acquire()
    assert celery_locks.lock("other", ttl=600).try_acquire()
    seen, page = [], text_of(viewer.get(URL, {"prefix": "user:"}))
    while True:
        seen += re.findall(r">(user:\d)&amp;x=1</bdi></a>", page)
        assert ">other<" not in page
        following = re.search(r'href="\?([^"]*)">Next page', page)
        if following is None:
            break
        page = text_of(viewer.get(URL + "?" + following[1].replace("&amp;", "&")))
        assert "First page" in page
    assert seen == [f"user:{number}" for number in range(5)]


def test_two_reads_a_page(viewer, lock_store, monkeypatch) -> None:
    calls = []
    for name in ("page", "stats", "info", "holders"):
        real = getattr(lock_store, name)
        monkeypatch.setattr(lock_store, name, lambda *args, n=name, real=real: calls.append(n) or real(*args))
    viewer.get(URL)
    assert calls == ["page", "stats"]
    calls.clear()
    viewer.get(URL + "key/", {"key": "k"})
    assert calls == ["info", "page"]


def test_one_key_and_who_waits(viewer, celery_locks, held_lock) -> None:
    with held_lock("user:7", by="an import"):
        ticket = celery_locks.lock("user:7", owner="me").enqueue()
        page = text_of(viewer.get(URL + "key/", {"key": "user:7"}))
        ticket.cancel()
    assert "1 of 1 permits are held" in page
    assert "an import" in page
    assert "1 waiting" in page
    assert "Release" not in page
    assert "Not held" in text_of(viewer.get(URL + "key/", {"key": "user:7"}))
    assert viewer.get(URL + "key/").status_code == 400


def reference(page: str) -> str:
    """What a page of a key gives to release its first lease."""
    return parse_qs(unescape(re.search(r'href="/admin/celery_locks/lock/release/\?([^"]*)"', page)[1]))["lease"][0]


def held(celery_locks: Locks, releaser: Client, key: str = "k", owner: str = "an import") -> str:
    """Holds a key, and returns the reference to the lease."""
    assert celery_locks.lock(key, ttl=600, owner=owner).try_acquire()
    return reference(text_of(releaser.get(URL + "key/", {"key": key})))


def told(response) -> list[str]:
    """The messages of a page, as text."""
    return [strip_tags(str(message)) for message in response.context["messages"]]


def test_a_release_asks_and_is_written_down(releaser, celery_locks, assert_free, caplog) -> None:
    lease = celery_locks.lock(EVIL, ttl=600, owner="an <import>").try_acquire()
    page = text_of(releaser.get(URL + "key/", {"key": EVIL}))
    asked = {"lease": reference(page)}
    question = text_of(releaser.get(URL + "release/", asked))
    assert "<bdi>an &lt;import&gt;</bdi> has held" in question
    assert lease.token not in page + question
    assert celery_locks.lock(EVIL).locked()
    done = releaser.post(URL + "release/", asked, follow=True)
    assert "was released, which was held by <bdi>an &lt;import&gt;</bdi>" in text_of(done)
    assert_free(EVIL)
    entry = LogEntry.objects.latest("pk")
    assert (entry.object_id, entry.object_repr, entry.user.get_username()) == (EVIL, EVIL, "view_lock-release_lock")
    assert entry.get_change_message() == "Released it from an <import>"
    assert "in the admin by view_lock-release_lock" in caplog.text
    again = releaser.post(URL + "release/", asked, follow=True)
    assert told(again) == [f"The lease of {escape(EVIL)} had ended before: nothing was released. The key is free now."]
    assert "there is nothing to release. The key is free now." in text_of(releaser.get(URL + "release/", asked))
    assert LogEntry.objects.latest("pk") == entry


def test_who_came_since_keeps_it(releaser, celery_locks, assert_locked) -> None:
    asked = {"lease": held(celery_locks, releaser, owner="old")}
    celery_locks.lock("k").force_release()
    assert celery_locks.lock("k", ttl=600, owner="new").try_acquire()
    said = told(releaser.post(URL + "release/", asked, follow=True))
    assert said == ["The lease of k had ended before: nothing was released. The key is now held by new."]
    assert "The key is now held by <bdi>new</bdi>." in text_of(releaser.get(URL + "release/", asked))
    assert_locked("k", by="new")


@pytest.mark.parametrize("key", ["two\nlines", "nul\0byte", "z" * 20_000], ids=["newline", "nul", "long"])
def test_promise_47_one_line_for_each_release(key, celery_locks, caplog) -> None:
    name = "eve\r\n\x1b[2J\u2028WARNING: all is well"
    user, _ = User.objects.get_or_create(username=name, is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(user)
    asked = {"lease": held(celery_locks, client, key, owner="an\nimport\0")}
    forged = {"HTTP_AUTHORIZATION": "Basic Ym9zczp4", "HTTP_REMOTE_USER": "boss", "HTTP_X_FORWARDED_USER": "boss"}
    assert len(told(client.post(URL + "release/", asked, follow=True, **forged))) == 1
    assert not celery_locks.lock(key).locked()
    (line,) = [record.getMessage() for record in caplog.records if "in the admin by" in record.getMessage()]
    assert line.isprintable()
    assert line.endswith(
        r"held by an\nimport\x00, was released in the admin by eve\r\n\x1b[2J\u2028WARNING: all is well"
    )
    entry = LogEntry.objects.latest("pk")
    assert entry.user == user
    assert (entry.object_id + entry.object_repr + entry.change_message).isprintable()
    assert len(entry.object_repr) <= 200


def test_promise_48_a_called_task_is_not_shown_as_running(releaser, celery_locks) -> None:
    twice.delay("ab")
    group = Group.objects.create(name="called")
    describe.delay(group.pk)
    page = releaser.get(URL)
    assert "called, not started" in text_of(page)
    assert "called, not started" in text_of(releaser.get(URL + "key/", {"key": f"group:{group.pk}"}))
    (link,) = [row["link"] for row in page.context["rows"] if "part=call" in row["link"]]
    of_key = text_of(releaser.get(URL + "key/", {"key": "twice:ab"}))
    assert "Not held" in of_key
    assert link in unescape(of_key)
    of_part = text_of(releaser.get(f"{URL}key/?{link}"))
    assert "called, not started" in of_part
    assert re.search(r'b</bdi> <abbr title="Held from the call[^"]*">\(call\)</abbr>', of_part)
    celery_locks.lock("twice:ab", ttl=600).acquire()
    done = releaser.post(URL + "release/", {"lease": reference(of_part)}, follow=True)
    assert "(call) was released" in told(done)[0]
    assert not celery_locks.info("twice:ab", "call").holders
    assert celery_locks.lock("twice:ab").locked()
    assert LogEntry.objects.latest("pk").object_id == "twice:ab (part call)"
    assert "Not held" in text_of(done)


def test_promise_48_a_dispatched_task_is_not_shown_as_running(viewer, celery_locks) -> None:
    parking, name = tickets_of(celery_locks.store), celery_locks._space.name("k")
    lease = celery_locks.lock("k", ttl=600).acquire()
    ticket = Ticket("t:0", "a message", "t", owner=owners.parked("shop.sync", "t", "e\nmails"))
    parking.enter(Claim(name, "another", owners.running("shop.sync", "t", "w1"), 60, 1), ticket)
    assert r"via queue e<code>\n</code>mails" in text_of(viewer.get(URL + "key/", {"key": "k"}))
    parking.end_run(name, lease.token, "final", broker="")
    for address in (URL, URL + "key/?key=k"):
        assert r"dispatched to queue <bdi>e<code>\n</code>mails</bdi>, not started" in text_of(viewer.get(address))


def test_a_log_that_fails_hides_no_release(releaser, celery_locks, assert_free) -> None:
    def refuse(**_) -> None:
        raise DatabaseError("the disk is full")

    asked, before = {"lease": held(celery_locks, releaser)}, LogEntry.objects.count()
    pre_save.connect(refuse, LogEntry)
    try:
        said = told(releaser.post(URL + "release/", asked, follow=True))
    finally:
        pre_save.disconnect(refuse, LogEntry)
    assert said[0] == "k was released, which was held by an import."
    assert "could not be written" in said[1]
    assert_free("k")
    assert LogEntry.objects.count() == before


def test_a_database_without_emojis_gets_ascii(releaser, celery_locks) -> None:
    def refuse(instance: LogEntry, **_) -> None:
        if "\U0001f9c0" in instance.object_id + instance.change_message:
            raise DatabaseError("Incorrect string value")

    asked = {"lease": held(celery_locks, releaser, "\U0001f9c0", "\U0001f9c0")}
    pre_save.connect(refuse, LogEntry)
    try:
        said = told(releaser.post(URL + "release/", asked, follow=True))
    finally:
        pre_save.disconnect(refuse, LogEntry)
    assert said == ["\U0001f9c0 was released, which was held by \U0001f9c0."]
    entry = LogEntry.objects.latest("pk")
    assert (entry.object_id, entry.change_message) == (r"\U0001f9c0", r"Released it from \U0001f9c0")


def test_who_may_not(viewer, releaser, celery_locks, assert_locked) -> None:
    asked = {"lease": held(celery_locks, releaser)}
    assert "release" not in text_of(viewer.get(URL + "key/", {"key": "k"})).lower()
    assert viewer.post(URL + "release/", asked).status_code == 403
    assert viewer.get(URL + "release/", asked).status_code == 403
    assert client_of("release_lock").post(URL + "release/", asked).status_code == 403
    assert client_of().get(URL).status_code == 403
    assert client_of().get(URL + "key/", {"key": "k"}).status_code == 403
    assert client_of().get(URL + "key/?key=%ff").status_code == 403
    assert Client().post(URL + "release/", asked).status_code == 302
    assert client_of("view_lock", "release_lock", csrf=True).post(URL + "release/", asked).status_code == 403
    assert_locked("k")


def test_wrong_requests(releaser, celery_locks, assert_locked) -> None:
    lease = held(celery_locks, releaser)
    token = celery_locks.lock("k").holders()[0].fencing_token
    wrong = ["", "x", "\0", "é:é:é", lease[:-1], lease.swapcase(), signing.dumps(["k", "", token]), "x" * 100_000]
    for text in wrong:
        for response in (
            releaser.get(URL + "release/", {"lease": text}),
            releaser.post(URL + "release/", {"lease": text}),
        ):
            assert response.status_code == 400
            assert "open the page of the key again" in text_of(response)
            assert "may have been released" not in text_of(response)
    assert releaser.post(URL + "release/", {"key": "k", "fencing_token": str(token)}).status_code == 400
    for address in (URL, URL + "key/?key=k"):
        assert releaser.head(address).status_code == 200
        assert releaser.options(address).status_code == 405
        assert releaser.post(address).status_code == 405
    assert releaser.head(URL + "release/", {"lease": lease}).status_code == 200
    assert releaser.options(URL + "release/", {"lease": lease}).status_code == 405
    assert releaser.delete(URL + f"release/?lease={lease}").status_code == 405
    assert releaser.get(URL + "add/").status_code == 404
    assert_locked("k")


@pytest.mark.parametrize("query", ["key=%ff", "key=%ED%A0%80", "key=k&part=%ff", "key=k&part=other", "part=call", ""])
def test_addresses_of_no_key(viewer, query) -> None:
    response = viewer.get(URL + "key/?" + query)
    assert response.status_code == 400
    assert "Nothing can be shown" in text_of(response)
    assert "Not held" not in text_of(response)


def test_a_search_keeps_what_a_field_cannot(viewer, celery_locks, monkeypatch) -> None:
    monkeypatch.setattr("celery_locks.contrib.django.admin.PAGE_ROWS", 1)
    keys = ["a\nb\0 1", "a\nb\0 2", "a\nb\0 3"]
    for key in [*keys, "a\nc", "a b"]:
        assert celery_locks.lock(key, ttl=600).try_acquire()
    assert viewer.get(URL, {"prefix": "a\nb\0"}).context["typed"] == ""
    seen, query = [], urlencode({"prefix": "a\nb\0"})
    while query:
        page = viewer.get(f"{URL}?{query}")
        assert "Keys that begin with <bdi>a<code>\\n</code>b<code>\\x00</code></bdi>" in text_of(page)
        seen += [parse_qs(row["link"])["key"][0] for row in page.context["rows"]]
        query = page.context["next"]
    assert seen == keys
    assert viewer.get(URL + "?prefix=%ff").status_code == 400


def test_numbers(viewer, celery_locks) -> None:
    """With thousand separators, but for the fencing token, which people copy."""
    lease = celery_locks.semaphore("many", limit=2**53, ttl=600).try_acquire(permits=5_000)
    page = text_of(viewer.get(URL + "key/", {"key": "many"}))
    assert "5,000 of 9,007,199,254,740,992 permits are held" in page
    assert f"<td>{lease.fencing_token}</td>" in page


def test_a_store_that_is_down_is_reported(releaser, monkeypatch) -> None:
    # A port that nobody listens on.
    away = Locks("redis://:secret@127.0.0.1:1/0")
    monkeypatch.setattr(Locks, "from_app", classmethod(lambda cls, app, *_: away))
    monkeypatch.setattr("celery_locks.tasks.options._locks", {})
    with pytest.raises(StoreUnavailable):
        away.stats()
    lease = LeaseReference("k", "", 1).signed()
    for address in (URL, URL + "key/?key=k", URL + f"release/?lease={lease}"):
        response = releaser.get(address)
        assert response.status_code == 503
        assert "Nothing can be shown" in text_of(response)
        assert "None." not in text_of(response)
        assert "secret" not in text_of(response)
    posted = releaser.post(URL + "release/", {"lease": lease})
    assert posted.status_code == 503
    assert "may have been released all the same" in text_of(posted)


@pytest.fixture
def audit(celery_locks, monkeypatch) -> Locks:
    """The locks in a second store of the app, ``audit``."""
    stores = {"default": celery_locks, "audit": Locks(MemoryStore())}
    stores["audit"]._space.store_name = "audit"
    monkeypatch.setitem(app.conf, "locks_stores", {"audit": stores["audit"].store})
    monkeypatch.setattr(Locks, "from_app", classmethod(lambda cls, app, store="default": stores[store]))
    return stores["audit"]


def test_a_list_of_each_store(viewer, celery_locks, audit, monkeypatch) -> None:
    monkeypatch.setattr("celery_locks.contrib.django.admin.PAGE_ROWS", 1)
    for number in range(2):
        assert audit.lock(f"a:{number}", ttl=600, owner="org:org_1/user:user_42").try_acquire()
    assert celery_locks.lock("a:d", ttl=600).try_acquire()
    page = text_of(viewer.get(URL, {"prefix": "a:"}))
    assert ">a:d</bdi></a>" in page
    assert ">a:0<" not in page
    [link] = re.findall(r'<a href="\?([^"]*)"><bdi>audit</bdi></a>', page)
    page = text_of(viewer.get(URL + "?" + unescape(link)))
    assert ">a:0</bdi></a>" in page
    assert "org:org_1/user:user_42" in page
    assert '<strong aria-current="page"><bdi>audit</bdi></strong>' in page
    assert '<input type="hidden" name="store" value="audit">' in page
    following = re.search(r'href="\?([^"]*)">Next page', page)[1]
    page = text_of(viewer.get(URL + "?" + unescape(following)))
    assert ">a:1</bdi></a>" in page
    [key_page] = re.findall(r'href="(/admin/celery_locks/lock/key/\?key=a%3A1[^"]*)"', page)
    assert "In the store <bdi>audit</bdi>." in text_of(viewer.get(unescape(key_page)))
    wrong = viewer.get(URL, {"store": "adit"})
    assert wrong.status_code == 400
    assert "no store has the name" in text_of(wrong)


def test_a_release_in_its_store(releaser, celery_locks, audit, caplog) -> None:
    lease = audit.lock("k", ttl=600, owner="one").try_acquire()
    kept = celery_locks.lock("k", ttl=600, owner="two").try_acquire()
    asked = {"lease": reference(text_of(releaser.get(URL + "key/", {"key": "k", "store": "audit"})))}
    assert "in the store <bdi>audit</bdi> for" in text_of(releaser.get(URL + "release/", asked))
    done = releaser.post(URL + "release/", asked, follow=True)
    assert done.redirect_chain[-1][0].endswith("?key=k&store=audit")
    assert "Not held" in text_of(done)
    assert lease.release() is False
    assert kept.release() is True
    assert "'k' in the store audit, held by one, was released in the admin" in caplog.text
    assert LogEntry.objects.latest("pk").get_change_message() == "Released it from one in the store audit"


def test_one_store_has_no_choice(viewer, celery_locks) -> None:
    assert "<p>Store:" not in text_of(viewer.get(URL))
