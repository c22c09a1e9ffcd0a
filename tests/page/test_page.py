"""The chat page in headless Chromium, as a person uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .fake import Fake, listening

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser


def expect(actual: Any) -> Any:
    from playwright.sync_api import expect

    return expect(actual)


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def ask(page: Page, text: str) -> Locator:
    """Sends the text and waits for the whole answer."""
    say(page, text)
    return answered(page)


def answered(page: Page) -> Locator:
    answer = page.get_by_role("article", name="Answer").last
    expect(answer.get_by_role("button", name="Retry")).to_be_enabled()
    return answer


def open_settings(page: Page) -> Locator:
    page.get_by_role("button", name="Settings").click()
    return page.get_by_role("dialog", name="Settings")


def close_settings(page: Page) -> None:
    page.get_by_role("button", name="Close", exact=True).click()


def titles(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("nav .title").all_inner_texts()]


def test_an_answer_streams_in_and_is_counted(page: Page, fake: Fake) -> None:
    answer = ask(page, "hello")
    expect(answer).to_contain_text("You said: hello")
    expect(answer).to_contain_text(re.compile(r"[\d.]+ tokens/s · 34 tokens"))
    expect(answer.locator(".stats")).to_have_attribute("title", re.compile(r"12 prompt tokens \(8 reused\)"))
    assert fake.requests == [
        {
            "model": "smollm2",
            "messages": [{"role": "user", "content": "hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    ask(page, "more")
    assert [m["content"] for m in fake.requests[1]["messages"]] == ["hello", "You said: hello", "more"]


def test_markdown_and_code(page: Page) -> None:
    answer = ask(page, "markdown")
    expect(answer.get_by_role("heading", name="Prefixes")).to_be_visible()
    expect(answer.get_by_role("cell", name="flow, flower")).to_be_visible()
    expect(answer.locator("pre .hljs-keyword").first).to_have_text("def")
    expect(answer.locator("ol").last).to_have_attribute("start", "3")
    boxes = answer.get_by_role("checkbox").all()
    assert [(box.is_checked(), box.is_disabled()) for box in boxes] == [(True, True), (False, True)]
    link = answer.get_by_role("link", name="the documentation")
    expect(link).to_have_attribute("target", "_blank")
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    answer.locator(".copy-code").click()
    code = page.evaluate("navigator.clipboard.readText()")
    assert code.startswith("def common_prefix(words: list[str]) -> str:\n    # Letters")
    assert code.endswith("return out")
    answer.get_by_role("button", name="Copy", exact=True).last.click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("# Prefixes\n\nThe **longest")


def test_an_answer_cannot_act(page: Page) -> None:
    answer = ask(page, "hostile")
    expect(answer).to_contain_text('<img src="https://elsewhere.example/a.png"')
    expect(answer).to_contain_text("<script>document.title = 'owned'</script>")
    expect(answer.get_by_role("link", name="a picture")).to_have_attribute("href", "https://elsewhere.example/b.png")
    assert answer.get_by_text("a link").get_attribute("href") is None
    expect(answer.locator("sub")).to_have_text("2")
    assert answer.locator("img, script, style, iframe, [onclick], [style]").count() == 0
    expect(page).to_have_title("hostile · halfbyte")


def test_characters_survive_any_cut(page: Page) -> None:
    expect(ask(page, "unicode")).to_contain_text("Grüße, 世界 👩‍👩‍👧‍👦!")


def test_the_view_follows_the_text_until_one_scrolls_up(page: Page) -> None:
    for _ in range(3):
        ask(page, "markdown")
    say(page, "forever")
    expect(page.get_by_role("article", name="Answer").last).to_be_in_viewport()
    expect(page.get_by_role("button", name="To the end")).to_be_hidden()
    page.locator(".view").hover()
    page.mouse.wheel(0, -600)
    expect(page.get_by_role("button", name="To the end")).to_be_visible()
    place = page.locator(".view").evaluate("view => view.scrollTop")
    count = len(page.get_by_role("article", name="Answer").last.inner_text())
    page.wait_for_function(
        "n => [...document.querySelectorAll('.assistant')].at(-1).innerText.length > n + 400", arg=count
    )
    assert page.locator(".view").evaluate("view => view.scrollTop") == place
    page.get_by_role("button", name="To the end").click()
    expect(page.get_by_role("article", name="Answer").last.locator("footer")).to_be_in_viewport()


def test_stop_ends_the_request_and_keeps_the_text(page: Page, fake: Fake) -> None:
    say(page, "forever")
    expect(page.get_by_role("article", name="Answer")).to_contain_text("word word")
    page.get_by_role("button", name="Stop").click()
    answer = answered(page)
    expect(answer).to_contain_text("Stopped.")
    expect(answer).to_contain_text("word word")
    assert fake.abandoned.wait(60)
    expect(ask(page, "next")).to_contain_text("You said: next")


def test_retry_keeps_the_first_answer(page: Page, fake: Fake) -> None:
    answer = ask(page, "again")
    answer.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("Answer 2.")
    answered(page)
    assert fake.requests[0]["messages"] == fake.requests[1]["messages"]
    expect(page.get_by_text("2/2")).to_be_visible()
    page.get_by_role("button", name="Version before").click()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("Answer 1.")
    # What is said next follows the version that is shown, also after a reload.
    page.reload()
    ask(page, "more")
    assert [m["content"] for m in fake.requests[2]["messages"]] == ["again", "Answer 1.", "more"]


def test_edit_branches_the_conversation(page: Page, fake: Fake) -> None:
    ask(page, "first")
    ask(page, "second")
    question = page.get_by_role("article", name="You").first
    question.hover()
    question.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("other")
    page.get_by_label("Edit the message").press("Enter")
    expect(page.get_by_role("article", name="Answer")).to_contain_text("You said: other")
    answered(page)
    assert [m["content"] for m in fake.requests[2]["messages"]] == ["other"]
    page.get_by_role("button", name="Version before").first.click()
    expect(page.get_by_role("article", name="Answer")).to_have_count(2)
    expect(page.get_by_role("article", name="Answer").last).to_contain_text("You said: second")


def test_reasoning_is_folded_and_not_sent_back(page: Page, fake: Fake) -> None:
    answer = ask(page, "think")
    thoughts = answer.get_by_text("First, the user asks.")
    expect(thoughts).to_be_hidden()
    answer.get_by_text(re.compile("Thought for")).click()
    expect(thoughts).to_be_visible()
    ask(page, "more")
    assert fake.requests[1]["messages"][1] == {"role": "assistant", "content": "You said: think"}


def test_conversations_stay(page: Page) -> None:
    ask(page, "hello")
    page.get_by_role("button", name="New chat").first.click()
    expect(page.get_by_text("What is on your mind?")).to_be_visible()
    ask(page, "goodbye")
    page.reload()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("You said: goodbye")
    assert titles(page) == ["goodbye", "hello"]
    page.get_by_role("button", name="hello", exact=True).click()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("You said: hello")
    page.go_back()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("You said: goodbye")


def test_rename_delete_undo(page: Page) -> None:
    ask(page, "hello")
    item = page.locator("nav .item")
    item.hover()
    item.get_by_role("button", name="Rename").click()
    page.get_by_label("Title").fill("A greeting")
    page.get_by_label("Title").press("Enter")
    expect(page).to_have_title("A greeting · halfbyte")
    item.hover()
    item.get_by_role("button", name="Delete").click()
    expect(item).to_have_count(0)
    expect(page.get_by_text("What is on your mind?")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="A greeting", exact=True).click()
    expect(page.get_by_role("article", name="Answer")).to_contain_text("You said: hello")


def test_tabs_share_conversations(page: Page, url: str) -> None:
    other = page.context.new_page()
    other.goto(url)
    ask(page, "hello")
    other.get_by_role("button", name="hello", exact=True).click()
    expect(other.get_by_role("article", name="Answer")).to_contain_text("You said: hello")
    ask(page, "more")
    expect(other.get_by_role("article", name="Answer").last).to_contain_text("You said: more")


def test_an_answer_goes_on_while_another_chat_is_shown(page: Page, fake: Fake) -> None:
    say(page, "forever")
    expect(page.get_by_role("article", name="Answer")).to_contain_text("word word")
    page.get_by_role("button", name="New chat").first.click()
    expect(ask(page, "hello")).to_contain_text("You said: hello")
    assert not fake.abandoned.is_set()
    page.get_by_role("button", name="forever").click()
    page.keyboard.press("Escape")
    expect(answered(page)).to_contain_text("Stopped.")


def test_settings_are_sent_and_kept(page: Page, fake: Fake) -> None:
    dialog = open_settings(page)
    dialog.get_by_label("Instructions").fill("Be brief.")
    dialog.get_by_label("Temperature", exact=False).last.fill("0.3")
    dialog.get_by_label("Seed").fill("42")
    dialog.get_by_label("Top K, slider").fill("20")
    dialog.get_by_label("Stop at").fill("END\n###")
    close_settings(page)
    page.reload()
    ask(page, "hello")
    sent = fake.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    expected = {"temperature": 0.3, "seed": 42, "top_k": 20, "stop": ["END", "###"]}
    assert {key: sent[key] for key in sent if key not in ("model", "messages", "stream", "stream_options")} == expected
    open_settings(page).get_by_role("button", name="Reset to the server's defaults").click()
    close_settings(page)
    ask(page, "again")
    assert "temperature" not in fake.requests[1]


def test_numbers_out_of_range_are_brought_back(page: Page, fake: Fake) -> None:
    field = open_settings(page).get_by_label("Temperature").last
    field.fill("9")
    field.blur()
    expect(field).to_have_value("2")
    field.fill("")
    field.blur()
    close_settings(page)
    ask(page, "hello")
    assert "temperature" not in fake.requests[0]


def test_model_picker(page: Page, fake: Fake) -> None:
    page.get_by_label("Model", exact=True).select_option("qwen3-0.6b")
    ask(page, "hello")
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("qwen3-0.6b")
    assert fake.requests[0]["model"] == "qwen3-0.6b"


def test_errors_are_told_and_retried(page: Page) -> None:
    expect(ask(page, "refuse").get_by_role("alert")).to_have_text("The prompt is too long: 9000 tokens of 8192.")
    answer = ask(page, "break")
    expect(answer.get_by_role("alert")).to_have_text("The engine stopped.")
    expect(answer).to_contain_text("Half an ans")
    expect(ask(page, "cut")).to_contain_text("Cut off at the length limit.")
    expect(ask(page, "hello")).to_contain_text("You said: hello")


def test_a_server_that_asks_for_a_key(page: Page, fake: Fake) -> None:
    fake.api_key = "secret"
    page.reload()
    page.get_by_role("main").get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Unlock").click()
    expect(page.get_by_text("The server refused this key.")).to_be_visible()
    page.get_by_role("main").get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Unlock").click()
    expect(ask(page, "hello")).to_contain_text("You said: hello")


def test_a_server_that_goes_and_comes_back(fake: Fake, browser: Any) -> None:
    with listening(fake.app) as url:
        page = browser.new_page()
        page.goto(url)
        ask(page, "hello")
    say(page, "more")
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached. Is it still running?")
    expect(page.get_by_text("The server does not answer. Trying again")).to_be_visible()
    with listening(fake.app, port=int(url.rsplit(":", 1)[1])):
        expect(page.get_by_text("The server does not answer")).to_be_hidden()
        page.get_by_role("button", name="Retry").last.click()
        expect(answered(page)).to_contain_text("You said: more")
        page.close()


def test_an_empty_answer_says_so(page: Page) -> None:
    expect(ask(page, "nothing")).to_contain_text("The answer is empty.")


def test_a_connection_that_breaks_keeps_what_came(page: Page, fake: Fake) -> None:
    say(page, "vanish")
    answer = page.get_by_role("article", name="Answer").last
    expect(answer).to_contain_text("Half an ans")
    fake.seen.set()
    expect(answer.get_by_role("alert")).to_have_text("The connection to the server was lost.")
    expect(answer).to_contain_text("Half an ans")
    expect(page.get_by_text("The server does not answer")).to_be_hidden()  # it does, when asked again
    expect(ask(page, "hello")).to_contain_text("You said: hello")


def test_a_browser_that_keeps_nothing_still_chats(open_page: Callable[..., Page], url: str) -> None:
    page = open_page()
    page.add_init_script("Storage.prototype.setItem = () => { throw new Error('full') }")
    page.add_init_script("IDBDatabase.prototype.transaction = () => { throw new Error('full') }")
    page.goto(url)
    expect(page.get_by_text("This browser does not keep the conversation: full")).to_be_visible()
    expect(ask(page, "hello")).to_contain_text("You said: hello")


def test_export_and_import(page: Page, open_page: Callable[..., Page], tmp_path: Path) -> None:
    ask(page, "hello")
    dialog = open_settings(page)
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    download.value.save_as(file)
    assert json.loads(file.read_text())["format"] == "halfbyte-conversations"
    dialog.get_by_role("button", name="Delete all").click()
    dialog.get_by_role("button", name="Really delete all").click()
    close_settings(page)
    expect(page.locator("nav .item")).to_have_count(0)

    other = open_page()
    open_settings(other).get_by_label("Import").set_input_files(file)
    expect(other.get_by_text("1 conversation added.")).to_be_visible()
    close_settings(other)
    other.get_by_role("button", name="hello", exact=True).click()
    expect(other.get_by_role("article", name="Answer")).to_contain_text("You said: hello")


LOOP = {"id": "a", "parent": "a", "role": "user", "text": "x", "created": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no json", "This file is no JSON."),
        ("null", "This file holds no conversations"),
        ('{"format": "halfbyte-conversations", "conversations": [null]}', "A conversation in this file is damaged."),
        (
            json.dumps(
                {
                    "format": "halfbyte-conversations",
                    "conversations": [{"id": "c", "title": "", "updated": 1, "head": "a", "messages": {"a": LOOP}}],
                }
            ),
            "A conversation in this file is damaged.",
        ),
    ],
)
def test_damaged_files_are_refused(page: Page, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    open_settings(page).get_by_label("Import").set_input_files(file)
    expect(page.get_by_text(told)).to_be_visible()


def test_themes(open_page: Callable[..., Page]) -> None:
    page = open_page(color_scheme="dark")

    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = background()
    dialog = open_settings(page)
    dialog.get_by_text("Light", exact=True).click()
    light = background()
    assert light != dark
    page.reload()
    assert background() == light
    open_settings(page).get_by_text("Dark", exact=True).click()
    assert background() == dark


def test_a_phone(open_page: Callable[..., Page]) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme="light")
    ask(page, "markdown")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(page.locator("nav")).to_be_hidden()
    page.get_by_role("button", name="Show the list").click()
    expect(page.get_by_role("button", name="markdown", exact=True)).to_be_visible()
    page.locator("nav").get_by_role("button", name="New chat").click()
    expect(page.locator("nav")).to_be_hidden()
    expect(page.get_by_text("What is on your mind?")).to_be_visible()
    box = page.get_by_label("Message", exact=True)
    box.fill("one")
    box.press("Enter")  # a new line: touch keyboards have no Shift+Enter
    expect(box).to_have_value("one\n")
    open_settings(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
