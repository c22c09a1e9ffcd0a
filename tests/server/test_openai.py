"""OpenAI's protocol, through OpenAI's own SDK."""

from __future__ import annotations

from .conftest import Live


def test_completion_is_what_the_library_gives(live: Live) -> None:
    answer = live.openai().completions.create(model="tiny", prompt="abc", max_tokens=8, temperature=0)
    assert answer.choices[0].text == live.llm.generate("abc", max_tokens=8, temperature=0).text


def test_streamed_chat_is_the_whole_one(live: Live) -> None:
    client = live.openai()
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "seed": 3}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    chunks = client.chat.completions.create(**ask, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
