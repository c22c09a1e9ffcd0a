"""Layers with a window let go of what they passed: nobody's answer changes, and more fits the same pool."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfbyte import _core

from ..conftest import tiny_gemma4

GREEDY = _core.SamplingParams(temperature=0)
N_CTX = 256
NO_GUESSES = {"prefix_cache": False, "prompt_lookup": False}


def gemma(tiny_model: Callable[..., Path]) -> Path:
    """Seven layers, of which one sees everything: six that see 20 positions share the blocks of its kind."""
    return tiny_model(
        arch="gemma3",
        n_layers=7,
        layer_norms={"attn_q_norm": 16, "attn_k_norm": 16, "post_attention_norm": 64, "post_ffw_norm": 64},
        **{"gemma3.attention.key_length": 16, "gemma3.attention.value_length": 16},
        **{"gemma3.attention.sliding_window": 20},
    )


def gemma4(tiny_model: Callable[..., Path]) -> Path:
    """Ten layers that see 20 positions, and two that see everything and lie where one of those would."""
    pattern = ([True] * 5 + [False]) * 2
    return tiny_model(**tiny_gemma4(pattern, windowed=(4, 16), full=(1, 32)))


def gemma4_small(tiny_model: Callable[..., Path]) -> Path:
    """Nine layers with caches, one of which is full and as large as two with a window. Three more read theirs."""
    pattern = [True] * 4 + [False] + [True] * 6 + [False]
    shared = {"gemma4.attention.shared_kv_layers": 3}
    return tiny_model(**tiny_gemma4(pattern, windowed=(1, 16), full=(1, 32)), **shared)


def mistral(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(**{"llama.attention.sliding_window": 20})


@pytest.fixture(scope="module", params=[gemma, gemma4, gemma4_small, mistral])
def model(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> _core.Model:
    return _core.Model.load(str(request.param(tiny_model)))


def open_engine(model: _core.Model, kv_tokens: int, n_batch: int, max_sequences: int = 8) -> _core.Engine:
    options = {"n_ctx": N_CTX, "kv_tokens": kv_tokens, "n_batch": n_batch, "max_sequences": max_sequences}
    return _core.Engine(model, k_type="f32", v_type="f32", n_threads=1, **options)


@pytest.fixture(scope="module")
def expected(model: _core.Model) -> Callable[[list[int]], np.ndarray]:
    """Logits of all tokens, computed in one step: nothing can be given back before it is used."""
    engine = open_engine(model, N_CTX, 512)
    return lambda tokens: np.asarray(engine.forward(tokens))


@pytest.mark.parametrize("n_batch", [7, 40])
def test_pieces_give_what_one_step_gives(
    model: _core.Model, expected: Callable[[list[int]], np.ndarray], n_batch: int
) -> None:
    tokens = [(7 * i * i + 3 * i) % 250 for i in range(200)]
    assert np.array_equal(open_engine(model, N_CTX, n_batch).forward(tokens), expected(tokens))


@pytest.mark.parametrize(("seed", "kv_tokens", "n_batch"), [(1, N_CTX, 16), (2, N_CTX, 64), (3, 2 * N_CTX, 16)])
def test_answers_do_not_depend_on_what_was_given_back(
    model: _core.Model, expected: Callable[[list[int]], np.ndarray], seed: int, kv_tokens: int, n_batch: int
) -> None:
    """Shared beginnings, drafts, preemption, beams, passes and cancelled requests in a pool that is too small for all."""
    draw = random.Random(seed)
    engine, mailbox = open_engine(model, kv_tokens, n_batch), _core.Mailbox()
    shared = [[draw.randrange(250) for _ in range(n)] for n in (0, 40, 90)]
    prompts: dict[int, list[int]] = {}
    answers: dict[int, list[int]] = {}
    beams, cancelled = set(), set()
    for i in range(24):
        prompt = draw.choice(shared) + [draw.randrange(60, 63) for _ in range(draw.randint(1, 60))]
        if i % 8 == 5:
            id, _ = engine.submit(prompt[:40], GREEDY, mailbox, max_tokens=20, beam_width=2)
            beams.add(id)
        else:
            id, _ = engine.submit(prompt, GREEDY, mailbox, max_tokens=draw.randint(1, 90), priority=i % 7 // 6)
        prompts[id], answers[id] = prompt, []
        if i % 8 == 6:
            engine.cancel(id)
            cancelled.add(id)
        if i % 8 == 7:
            assert np.array_equal(engine.forward(prompt), expected(prompt))
    left = set(prompts)
    while left:
        for event in mailbox.take(30):
            answers[event["id"]] += [s["token"] for s in event["samples"]]
            if event["finish"]:
                assert event["error"] is None
                left.remove(event["id"])
    for id in set(prompts) - beams - cancelled:
        logits = expected(prompts[id] + answers[id])[len(prompts[id]) - 1 : -1]
        best = logits.max(axis=1)
        assert np.all(best - logits[np.arange(len(best)), answers[id]] < 1e-4), id
    engine.check_integrity()
    stats = engine.stats()
    assert stats["n_blocks_free"] + stats["n_blocks_cached"] == stats["n_blocks"]


def test_more_sequences_fit_when_layers_forget(model: _core.Model, tiny_model: Callable[..., Path]) -> None:
    """Streams of 200 tokens run together in a pool of twice as many; none is pushed out."""

    def n_preemptions(model: _core.Model) -> int:
        engine, mailbox, all_came = open_engine(model, 400, 16), _core.Mailbox(), threading.Event()

        def wait(generated: object, logits: object) -> None:
            assert all_came.wait(200)

        left = set()
        for i in range(4):
            left.add(engine.submit([60 + i] * 100, GREEDY, mailbox, max_tokens=100, processors=[wait])[0])
        all_came.set()
        while left:
            left -= {e["id"] for e in mailbox.take(30) if e["finish"]}
        return int(engine.stats()["n_preemptions"])

    assert n_preemptions(model) == 0
    assert n_preemptions(_core.Model.load(str(tiny_model()))) > 0


@pytest.mark.parametrize(
    ("make", "n_windowed", "n_full"), [(gemma, 6, 1), (gemma4, 10, 1), (gemma4_small, 4, 1), (mistral, 1, 0)]
)
def test_a_long_text_takes_blocks_of_full_layers_and_of_windows(
    tiny_model: Callable[..., Path], make: Callable[[Callable[..., Path]], Path], n_windowed: int, n_full: int
) -> None:
    model = _core.Model.load(str(make(tiny_model)))
    engine = _core.Engine(model, n_ctx=N_CTX, kv_tokens=N_CTX, n_batch=16, n_threads=1, **NO_GUESSES)
    mailbox, reached, looked = _core.Mailbox(), threading.Event(), threading.Event()

    def pause(generated: list[int], logits: object) -> None:
        if len(generated) == 40:
            reached.set()
            assert looked.wait(60)

    engine.submit([60] * 180, GREEDY, mailbox, max_tokens=50, processors=[pause])
    assert reached.wait(60)
    stats = engine.stats()
    looked.set()
    # As many groups as blocks for the context and one more go into: 220 positions are 14 blocks, a window's 20 in 2 or 3.
    assert stats["n_blocks"] == (N_CTX // 16 + 1) * (n_windowed + n_full)
    held = stats["n_blocks"] - stats["n_blocks_free"]
    assert 14 * n_full + 2 * n_windowed <= held <= 14 * n_full + 3 * n_windowed


def test_a_later_prompt_goes_on_where_the_window_is_still_there(model: _core.Model) -> None:
    engine, mailbox = open_engine(model, 4 * N_CTX, 64), _core.Mailbox()
    system = [draw % 250 for draw in range(100)]

    def n_cached(prompt: list[int]) -> int:
        engine.submit(prompt, GREEDY, mailbox, max_tokens=2)
        while True:
            for event in mailbox.take(30):
                if event["finish"]:
                    return int(event["n_prompt_cached"])

    assert n_cached([*system, 1, 2, 3]) == 0
    assert n_cached([*system, 4, 5]) == 96
    assert n_cached([*system[:64], 9]) == 64
