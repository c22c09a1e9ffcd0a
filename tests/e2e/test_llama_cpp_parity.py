"""The default model against llama.cpp's figures on the same weights in float32 (tests/data/llama_cpp_reference.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from halfbyte import LLM
from halfbyte.cli.main import main
from halfbyte.errors import DownloadError
from halfbyte.hub import pull_model

from ..conftest import REPOSITORY

REFERENCE = json.loads((REPOSITORY / "tests" / "data" / "llama_cpp_reference.json").read_text())
# Activations are rounded to 8 bits: where two logits of float32 are as near as this, either may be the larger one.
NEARLY_EQUAL = 0.1


@pytest.fixture(scope="module")
def smollm2() -> Iterator[LLM]:
    try:
        path = pull_model("smollm2")
    except DownloadError as error:
        pytest.skip(f"the default model cannot be fetched here: {error}")
    with LLM(path, n_ctx=512) as llm:
        yield llm


def test_perplexity(smollm2: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perplexity", "-m", str(smollm2.path), "-f", str(REPOSITORY / "LICENSE"), "-c", "512", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = REFERENCE["perplexity"]
    assert (found["chunks"], found["tokens"]) == (expected["chunks"], expected["tokens"])
    assert found["perplexity"] == pytest.approx(expected["perplexity"], rel=0.002)


@pytest.mark.parametrize("prompt", list(REFERENCE["greedy"]))
def test_greedy_text(smollm2: LLM, prompt: str) -> None:
    expected, ids = REFERENCE["greedy"][prompt], smollm2.tokenize(prompt)
    logits = smollm2.forward(ids + expected)[len(ids) - 1 : -1]
    behind = logits.max(axis=1) - logits[np.arange(len(expected)), expected]
    others = np.flatnonzero(behind)
    assert len(others) <= 1
    assert np.all(behind <= NEARLY_EQUAL)
    n_same = int(others[0]) if len(others) else len(expected)
    found = smollm2.generate(prompt, temperature=0, max_tokens=n_same, ignore_eos=True).token_ids
    assert found == expected[:n_same]


def test_it_answers_a_question(smollm2: LLM) -> None:
    question = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    output = smollm2.chat(question, temperature=0, max_tokens=40)
    assert "Paris" in output.text
    assert output.finish_reason == "stop"
