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


def test_the_links_of_pages_outside_the_site_lead_somewhere(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("[a](gone.md) [b](README.md#x) `[c](code.md)` [d](https://x.org)")
    assert list(links.broken_beside(tmp_path)) == ["README.md: gone.md leads nowhere"]
    assert list(links.broken_beside(ROOT)) == []


def test_an_index_shows_no_link_into_the_repository(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("[a](docs/x.md) ![b][c] [d](#e) [f](https://x.org)\n\n[c]: docs/assets/c.png\n")
    assert links.relative(page) == ["docs/x.md", "docs/assets/c.png"]
    assert links.relative(ROOT / "README.md") == []


def test_the_addresses_of_the_project_stand_for_its_files(tmp_path: Path) -> None:
    (tmp_path / "docs" / "how-to").mkdir(parents=True)
    (tmp_path / "docs" / "how-to" / "index.md").write_text(
        "# How to: `x`, [y](z.md)\n## A part\n```\n# no heading\n```\n"
    )
    (tmp_path / "docs" / "how-to" / "stores.md").touch()
    (tmp_path / "docs" / "index.md").touch()
    site, (file, raw) = links.DOCUMENTATION, links._FILES
    good = [site, f"{site}how-to/", f"{site}how-to/stores/", f"{site}how-to/#a-part", f"{site}how-to/#how-to-x-y"]
    good += [f"{file}docs/index.md", f"{raw}docs/index.md", "https://x.org/gone/"]
    wrong = [f"{site}how-to/gone/", f"{site}how-to/stores", f"{site}how-to/#gone", f"{site}how-to/#no-heading"]
    wrong += [f"{file}gone.md", f"{raw}gone.png"]
    (tmp_path / "README.md").write_text("".join(f"[a]({link})\n\n" for link in good + wrong[:3]))
    (tmp_path / "pyproject.toml").write_text("".join(f'x = "{link}"\n' for link in wrong[3:]))
    told = sorted(line.split(": ", 1)[1].split()[0] for line in links.broken_addresses(tmp_path))
    assert told == sorted(wrong)
    assert list(links.broken_addresses(ROOT)) == []


def test_each_link_of_the_readme_is_looked_up() -> None:
    ours = [link for link in links.markdown_links(ROOT / "README.md") if links._OURS.fullmatch(link)]
    assert len(ours) >= 25
