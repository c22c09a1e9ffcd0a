"""The page before the server itself: what the one sends, the other takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from halfbyte import LLM
from halfbyte.server.app import create_app
from halfbyte.server.models import SingleModelPool

from .fake import listening
from .test_page import answered, ask, close_settings, expect, open_settings, say

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

# A value for each setting of the page, all different from the defaults.
SETTINGS = {
    "Temperature": "0.5", "Top P": "0.9", "Top K": "30", "Min P": "0.02", "Repeat penalty": "1.1",
    "Presence penalty": "0.2", "Frequency penalty": "0.1", "Longest answer": "24", "Seed": "7",
}  # fmt: skip


@pytest.fixture
def url(tiny_model: Callable[..., Path]) -> Iterator[str]:
    """In place of the scripted server: the real one, over a model of a few kilobytes with random weights."""
    with LLM(tiny_model(n_ctx=4096), n_threads=1) as llm, listening(create_app(SingleModelPool(llm, ("tiny",)))) as url:
        yield url


def test_every_setting_is_taken(page: Page) -> None:
    dialog = open_settings(page)
    shown = [text.split("\n")[0].strip() for text in dialog.locator(".setting label").all_inner_texts()]
    assert shown == list(SETTINGS), "a setting of the page is not in this test, or the other way round"
    for label, value in SETTINGS.items():
        field = dialog.get_by_label(label).last
        field.fill(value)
        field.blur()
    dialog.get_by_label("Instructions").fill("Be brief.")
    dialog.get_by_label("Stop at").fill("never said")
    close_settings(page)
    answer = ask(page, "hello")
    expect(answer.get_by_role("alert")).to_have_count(0)
    expect(answer).to_contain_text(re.compile(r"\b24 tokens"))
    first: Any = answer.locator(".markdown").inner_text()
    answer.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("2/2")).to_be_visible()
    assert answered(page).locator(".markdown").inner_text() == first, "the same seed gives the same answer"


def test_a_chat_reuses_its_prefix_and_stops_when_told(page: Page) -> None:
    open_settings(page).get_by_label("Longest answer").last.fill("200")  # a random model may go on and on
    close_settings(page)
    ask(page, "hello")
    say(page, "and now a longer one")
    page.keyboard.press("Escape")
    answered(page)
    expect(ask(page, "again").locator(".stats")).to_have_attribute("title", re.compile(r"prompt tokens \(\d+ reused\)"))
