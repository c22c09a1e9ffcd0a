"""Chromium with the page open, and the rules that hold in every test: own host only, no script error, no CSP violation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .fake import Fake, listening

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium: $HALFBYTE_CHROMIUM, the system's, or the one that `playwright install chromium` has put."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # a busy machine takes its time
    found = os.environ.get("HALFBYTE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    # Chromium's sandbox needs a user other than root; the page under test is our own.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def url(fake: Fake) -> Iterator[str]:
    with listening(fake.app) as url:
        yield url


@pytest.fixture
def open_page(browser: Browser, url: str) -> Iterator[Callable[..., Page]]:
    """open_page(**context options) -> the page in a browser that has never seen it; the rules are checked at the end."""
    contexts: list[Any] = []
    hosts: set[str] = set()
    complaints: list[str] = []

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if "Content Security Policy" in m.text else None)
        page.on("console", lambda m: complaints.append(m.text) if "TrustedHTML" in m.text else None)

    def make(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.on("request", lambda request: hosts.add("/".join(request.url.split("/")[:3])))
        context.on("page", watch)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert complaints == []
    # A blob: address is a download that the page itself made; data: is its own icon.
    assert {host for host in hosts if not host.startswith(("blob:", "data:"))} == {url}


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page(permissions=["clipboard-read", "clipboard-write"], viewport={"width": 1280, "height": 800})


@pytest.fixture
def built_page() -> Path:
    from halfbyte.server import page

    found = [path for folder in page.__path__ if (path := Path(folder, "index.html")).is_file()]
    assert found, "the page is not built: cd page && npm ci && npm run build"
    return found[0]
