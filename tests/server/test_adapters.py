"""Adapters over HTTP: as models of their own, and chosen by a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from halfbyte import LLM

from ..convert.folders import write_folder
from ..lora.test_lora import write_peft
from .conftest import Live

ASK: dict[str, Any] = {"prompt": "abc", "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def live(serve_llm: Callable[[LLM], Live], tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A model with two adapters that it does not apply by itself."""
    base = tmp_path_factory.mktemp("adapters")
    adapters = {str(write_peft(base / name, seed)): 0.0 for seed, name in enumerate(("poet", "clerk"))}
    return serve_llm(LLM(write_folder(base / "model"), lora=adapters, n_threads=2))


def answer(live: Live, model: str = "tiny", **body: Any) -> str:
    said: str = live.openai().completions.create(model=model, **ASK, extra_body=body).choices[0].text
    return said


def expected(live: Live, lora: Any) -> str:
    return live.llm.generate("abc", max_tokens=12, temperature=0, lora=lora).text


def test_an_adapter_is_a_model(live: Live) -> None:
    cards = live.openai().models.list().data
    assert [(card.id, card.parent) for card in cards] == [  # type: ignore[attr-defined]
        ("tiny", None),
        ("also-tiny", None),
        ("poet", "tiny"),
        ("clerk", "tiny"),
    ]
    plain, poet, clerk = (expected(live, lora) for lora in ({}, "poet", "clerk"))
    assert len({plain, poet, clerk}) == 3
    assert [answer(live, name) for name in ("tiny", "poet", "clerk", "also-tiny")] == [plain, poet, clerk, plain]
    assert live.openai().completions.create(model="poet", **ASK).model == "poet"
    with live.http() as http:
        chat = {"model": "poet", "stream": False, "prompt": "abc", "raw": True}
        told = http.post("/api/generate", json={**chat, "options": {"temperature": 0, "num_predict": 12}})
        assert told.json()["response"] == poet


def test_a_request_chooses_adapters(live: Live) -> None:
    half = {"poet": 0.5, "clerk": -0.25}
    assert answer(live, lora=[{"id": 0, "scale": 0.5}, {"id": 1, "scale": -0.25}]) == expected(live, half)
    assert answer(live, "clerk", lora=[{"id": 0}]) == expected(live, "poet")
    assert answer(live, "poet", lora=[]) == expected(live, {})
    with live.http() as http:
        listed = http.get("/lora-adapters").json()
        assert [(adapter["id"], adapter["name"], adapter["scale"]) for adapter in listed] == [
            (0, "poet", 0),
            (1, "clerk", 0),
        ]
    with pytest.raises(openai.BadRequestError, match="no adapter 2; 2 are loaded") as caught:
        answer(live, lora=[{"id": 2}])
    assert caught.value.param == "lora"
