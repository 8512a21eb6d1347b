"""The page of locks in the admin, through Django's test client."""

from __future__ import annotations

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client

from celery_locks import Locks, StoreUnavailable

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
    return response.content.decode()


def test_the_index_of_the_admin_names_it(viewer) -> None:
    assert f'href="{URL}"' in text_of(viewer.get("/admin/"))
    assert URL not in text_of(client_of().get("/admin/"))


def test_held_locks(viewer, held_lock) -> None:
    with held_lock("user:7", by="shop.sync[abc] on w1"), held_lock(EVIL, by="<b>me</b>"):
        page = text_of(viewer.get(URL))
        assert "2 keys held or waited for" in page
        assert ">shop.sync</td>" in page
        assert "<script>alert" not in page
        assert "<b>me</b>" not in page
        assert "&lt;script&gt;alert(1)" in page
        link = re.search(r'href="(/admin/celery_locks/lock/key/\?key=user%3A%3Cscript[^"]*)"', page)
        assert "&lt;b&gt;me&lt;/b&gt;" in text_of(viewer.get(link[1].replace("&amp;", "&")))
    assert "None." in text_of(viewer.get(URL))


def test_search_and_pages(viewer, celery_locks, monkeypatch) -> None:
    monkeypatch.setattr("celery_locks.contrib.django.admin.ROWS", 2)
    for number in range(5):
        assert celery_locks.lock(f"user:{number}&x=1", ttl=600).try_acquire()
    assert celery_locks.lock("other", ttl=600).try_acquire()
    seen, page = [], text_of(viewer.get(URL, {"prefix": "user:"}))
    while True:
        seen += re.findall(r">(user:\d)&amp;x=1</a>", page)
        assert ">other</a>" not in page
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


def test_one_key_and_who_waits(viewer, celery_locks, held_lock) -> None:
    with held_lock("user:7", by="an import"):
        ticket = celery_locks.lock("user:7", owner="me").enqueue()
        page = text_of(viewer.get(URL + "key/", {"key": "user:7"}))
        ticket.cancel()
    assert "1 of 1 permits are held" in page
    assert "an import" in page
    assert "1 waiting" in page
    assert "Release" not in page
    assert "Nobody holds it" in text_of(viewer.get(URL + "key/", {"key": "user:7"}))
    assert viewer.get(URL + "key/").status_code == 400


def test_a_release_asks_and_is_written_down(releaser, celery_locks, assert_free) -> None:
    lease = celery_locks.lock(EVIL, ttl=600, owner="an <import>").try_acquire()
    page = text_of(releaser.get(URL + "key/", {"key": EVIL}))
    link = re.search(r'href="(/admin/celery_locks/lock/release/\?[^"]*)"', page)[1].replace("&amp;", "&")
    question = text_of(releaser.get(link))
    assert "an &lt;import&gt; has held" in question
    assert lease.token not in page + question
    assert celery_locks.lock(EVIL).locked()
    asked = {"key": EVIL, "fencing_token": re.search(r'name="fencing_token" value="(\d+)"', question)[1]}
    done = releaser.post(URL + "release/", asked, follow=True)
    assert "was released, which was held by an &lt;import&gt;" in text_of(done)
    assert_free(EVIL)
    assert LogEntry.objects.latest("action_time").object_id == EVIL
    assert "nothing was released" in text_of(releaser.post(URL + "release/", asked, follow=True))
    assert "there is nothing to release" in text_of(releaser.get(link))


def test_who_came_meanwhile_keeps_it(releaser, celery_locks, assert_locked) -> None:
    old = celery_locks.lock("k", ttl=600, owner="old").try_acquire()
    old.release()
    assert celery_locks.lock("k", ttl=600, owner="new").try_acquire()
    releaser.post(URL + "release/", {"key": "k", "fencing_token": old.fencing_token})
    assert_locked("k", by="new")


def test_who_may_not(viewer, celery_locks, assert_locked) -> None:
    lease = celery_locks.lock("k", ttl=600).try_acquire()
    asked = {"key": "k", "fencing_token": lease.fencing_token}
    assert viewer.post(URL + "release/", asked).status_code == 403
    assert viewer.get(URL + "release/", asked).status_code == 403
    assert client_of("release_lock").post(URL + "release/", asked).status_code == 403
    assert client_of().get(URL).status_code == 403
    assert client_of().get(URL + "key/", {"key": "k"}).status_code == 403
    assert Client().post(URL + "release/", asked).status_code == 302
    assert client_of("view_lock", "release_lock", csrf=True).post(URL + "release/", asked).status_code == 403
    assert_locked("k")


def test_wrong_requests(releaser) -> None:
    assert releaser.post(URL + "release/", {"key": "k", "fencing_token": "x"}).status_code == 400
    assert releaser.post(URL + "release/", {"key": "", "fencing_token": "1"}).status_code == 400
    assert releaser.delete(URL + "release/?key=k&fencing_token=1").status_code == 405
    assert releaser.get(URL + "add/").status_code == 404


def test_a_store_that_is_down_is_told(releaser, monkeypatch) -> None:
    # A port that nobody listens on.
    away = Locks("redis://:secret@127.0.0.1:1/0")
    monkeypatch.setattr(Locks, "from_app", classmethod(lambda cls, app: away))
    monkeypatch.setattr("celery_locks.tasks.options._locks", {})
    with pytest.raises(StoreUnavailable):
        away.stats()
    for address in (URL, URL + "key/?key=k", URL + "release/?key=k&fencing_token=1"):
        response = releaser.get(address)
        assert response.status_code == 503
        assert "Nothing can be shown" in text_of(response)
        assert "None." not in text_of(response)
        assert "secret" not in text_of(response)
    posted = releaser.post(URL + "release/", {"key": "k", "fencing_token": "1"})
    assert posted.status_code == 503
    assert "may have been released all the same" in text_of(posted)
