"""The Chromium of this machine, for the tests of pages."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support import report
from tests.support.flower import browser


@contextmanager
def launched(pages: str) -> Iterator[Browser]:
    """Start Chromium, or skip the test loudly where there is none.

    The name ``evil.example`` leads to this machine, as for a site that rebinds its name.

    Args:
        pages: Whose pages are tested, for the closing lines.
    """
    path = browser()
    if path is None:
        report.could_not_have("Chromium", f"the tests of {pages} DID NOT RUN; `apt-get install chromium` brings it")
        pytest.skip("there is no Chromium on this machine: see the closing lines")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # the sandbox refuses to work for root
        arguments.append("--host-resolver-rules=MAP evil.example 127.0.0.1")
        made = playwright.chromium.launch(executable_path=path, args=arguments)
        report.ran_on(f"Chromium {made.version}")
        yield made
        made.close()
    # Playwright's greenlets end when they are collected. In the midst of CPython 3.11's parser, which pytest uses
    # later, that would break the parser's count of its depth.
    gc.collect()
