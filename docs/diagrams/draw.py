"""Draws the diagrams of the documentation from their text: ``make diagrams``. Needs Node.js' ``npx`` and a Chromium.

Each picture ends with the digest of its text, so that a test notices one that was not drawn anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PICTURES = HERE.parent / "assets"
#: Draws Mermaid's texts. Pinned: each release draws a little differently.
PROGRAM = "@mermaid-js/mermaid-cli@11.17.0"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def digest(text: Path) -> str:
    """The comment that the picture of a text ends with."""
    return f"<!-- drawn from sha256:{hashlib.sha256(text.read_bytes()).hexdigest()} -->"


def draw(text: Path, browser: str) -> None:
    """Draws one."""
    picture = PICTURES / f"{text.stem}.svg"
    argv = ["npx", "--yes", PROGRAM, "--quiet", "--backgroundColor", "white", "--input", str(text)]
    argv += ["--output", str(picture), "-c", str(HERE / "style.json"), "-p", str(HERE / "browser.json")]
    known = {"PUPPETEER_SKIP_DOWNLOAD": "1", "PUPPETEER_EXECUTABLE_PATH": browser}
    subprocess.run(argv, check=True, env={**os.environ, **known})
    picture.write_text(f"{picture.read_text()}{digest(text)}\n")


def main() -> None:
    """Draws all."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or shutil.which("npx") is None:
        sys.exit("Drawing the diagrams needs npx (of Node.js) and Chromium on the PATH: apt-get install npm chromium")
    for text in sorted(HERE.glob("*.mmd")):
        draw(text, browser)


if __name__ == "__main__":
    main()
