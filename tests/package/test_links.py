"""Links that lead nowhere are found; `make docs` looks for them in the built site."""

from __future__ import annotations

from pathlib import Path

from tests.package import links
from tests.support.celery_worker import ROOT


def test_what_leads_nowhere_on_a_site_is_found(tmp_path: Path) -> None:
    (tmp_path / "how-to").mkdir()
    (tmp_path / "picture.svg").touch()
    (tmp_path / "index.html").write_text(
        '<h1 id="begin"></h1><a href="how-to/">x</a><a href="how-to/#one">x</a><a href="how-to/#two">x</a>'
        '<img src="picture.svg"><img src="none.svg"><a href="#begin">x</a><a href="#end">x</a><a href="https://x.org/">'
    )
    (tmp_path / "how-to" / "index.html").write_text('<p id="one"><a href="..">x</a><a href="../gone/">x</a>')
    assert sorted(links.broken(tmp_path)) == [
        "how-to/index.html: ../gone/ leads nowhere",
        "index.html: #end has no such place on its page",
        "index.html: how-to/#two has no such place on its page",
        "index.html: none.svg leads nowhere",
    ]
    assert links.external(tmp_path) == ["https://x.org/"]
    assert links.main(tmp_path) == 1


def test_the_pages_beside_the_site_lead_somewhere(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("[a](gone.md) [b](README.md#x) `[c](code.md)` [d](https://x.org)")
    assert list(links.broken_beside(tmp_path)) == ["README.md: gone.md leads nowhere"]
    assert list(links.broken_beside(ROOT)) == []
