"""Masks are computed beside the model, hold whatever is guessed ahead, and fail only their own request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM, _core
from halfbyte.errors import InvalidArgumentError

WORDS = (260 + 31) // 32


def mask_of(tokens: list[int]) -> np.ndarray:
    mask = np.zeros(WORDS, np.uint32)
    for token in tokens:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


@pytest.fixture(scope="module")
def llm(tiny_model: Callable[..., Path]) -> Iterator[LLM]:
    with LLM(tiny_model(format_name="Q4_0"), n_threads=1, n_ctx=256) as loaded:
        yield loaded
        loaded._engine.check_integrity()


def run(engine: _core.Engine, function: Any, n: int, **sampling: Any) -> list[int]:
    mailbox, out = _core.Mailbox(), []
    engine.submit([65, 66, 67] * 8, _core.SamplingParams(**sampling), mailbox, max_tokens=n, mask_function=function)
    while True:
        for event in mailbox.take(30):
            out += [s["token"] for s in event["samples"]]
            if event["error"] is not None:
                raise event["error"]
            if event["finish"]:
                return out


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 2.0, "seed": 3, "top_k": 0, "min_p": 0}])
def test_masks_hold_with_and_without_guesses(tiny_model: Callable[..., Path], sampling: dict[str, Any]) -> None:
    weights = _core.Model.load(str(tiny_model(format_name="Q4_0")))
    threads: set[int] = set()

    def letters(generated: np.ndarray) -> np.ndarray | None:
        """A, B, C over and over, a free choice of two at every fifth place; any token at every seventh."""
        threads.add(threading.get_ident())
        n = len(generated)
        assert all(n % 7 == 6 or generated[n] in (65 + n % 3, 90) for n in range(n))
        return None if n % 7 == 6 else mask_of([65 + n % 3] + [90] * (n % 5 == 4))

    found = []
    for options in ({"prompt_lookup": False}, {}, {"max_drafts": 30}, {"draft_model": weights}):
        engine = _core.Engine(weights, n_ctx=256, n_threads=1, **options)
        found.append(run(engine, letters, 120, **sampling))
        engine.check_integrity()
        if options == {}:
            assert engine.stats()["n_accepted_tokens"] > 0
    assert all(each == found[0] for each in found)
    assert threading.get_ident() not in threads


class Asked:
    """A rule that forbids every fourth token, others at each place; that says of single tokens whether they may come, at
    places that it `knows`; and that counts its masks."""

    def __init__(self, knows: Callable[[int], bool]) -> None:
        self.knows, self.n_masks, self.place = knows, 0, []

    def options(self, n: int) -> list[int]:
        return [token for token in range(256) if token % 4 != n % 4]

    def __call__(self, generated: np.ndarray) -> np.ndarray:
        self.n_masks += 1
        self.follow(generated)
        return mask_of(self.options(len(self.place)))

    def follow(self, generated: np.ndarray) -> None:
        self.place = generated.tolist()
        assert all(token in self.options(n) for n, token in enumerate(self.place))

    def admits(self, choices: list[int]) -> int:
        for n, choice in enumerate(choices):
            if not self.knows(len(self.place)) or choice not in self.options(len(self.place)):
                return n
            self.place.append(choice)
        return len(choices)


def test_the_likeliest_token_needs_no_mask_where_it_may_come(tiny_model: Callable[..., Path]) -> None:
    weights = _core.Model.load(str(tiny_model(format_name="Q4_0")))
    found, n_masks = [], []
    for options in ({"prompt_lookup": False}, {"draft_model": weights}, {"max_drafts": 30}):
        for knows in (lambda n: False, lambda n: n % 3 > 0, lambda n: True):
            rule = Asked(knows)
            engine = _core.Engine(weights, n_ctx=256, n_threads=1, **options)
            found.append(run(engine, rule, 90, temperature=0, logit_bias=[]))
            engine.check_integrity()
            n_masks.append(rule.n_masks)
    found.append(
        run(_core.Engine(weights, n_ctx=256, n_threads=1), Asked(lambda n: True), 90, temperature=0, n_logprobs=0)
    )
    assert all(each == found[0] for each in found)
    assert n_masks[0] == 90 > n_masks[1] > n_masks[2] > 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda generated: 1 / 0, "division"),
        (lambda generated: object(), "mask"),
        (lambda generated: np.zeros(2, np.uint32), "2 words"),
        (lambda generated: np.zeros(0, np.uint32), "empty mask"),
        (lambda generated: np.zeros(WORDS, np.uint32), "masked"),
    ],
)
def test_a_failing_mask_fails_its_request(llm: LLM, function: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        run(llm._engine, function, 5, temperature=0)
    assert len(run(llm._engine, None, 5, temperature=0)) == 5


def test_a_rule_that_fails_when_asked_fails_its_request(llm: LLM) -> None:
    rule = Asked(lambda n: 1 / (3 - n) > 0)
    with pytest.raises(InvalidArgumentError, match="division"):
        run(llm._engine, rule, 5, temperature=0)
    assert len(run(llm._engine, None, 5, temperature=0)) == 5


def test_a_request_that_goes_while_its_mask_is_computed(llm: LLM) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(generated: np.ndarray) -> None:
        entered.set()
        leave.wait(200)

    mailbox = _core.Mailbox()
    request, _ = llm._engine.submit([65], _core.SamplingParams(), mailbox, max_tokens=5, mask_function=slow)
    assert entered.wait(120)
    llm._engine.cancel(request)
    leave.set()
    while not any(event["finish"] for event in mailbox.take(30)):
        pass
    assert len(run(llm._engine, lambda generated: None, 5)) == 5


def test_others_go_on_while_a_mask_is_computed(llm: LLM) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(generated: np.ndarray) -> np.ndarray:
        entered.set()
        leave.wait(200)
        return mask_of([66])

    late = _core.Mailbox()
    llm._engine.submit([65], _core.SamplingParams(temperature=0), late, max_tokens=5, mask_function=slow)
    assert entered.wait(120)
    assert len(run(llm._engine, None, 60, temperature=0)) == 60
    assert not any(event["samples"] for event in late.take(0))
    leave.set()
    found: list[int] = []
    while len(found) < 5:
        found += [sample["token"] for event in late.take(30) for sample in event["samples"]]
    assert found == [66] * 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("options", [{}, {"prompt_lookup": False}, {"n_ctx": 64, "max_sequences": 4, "kv_tokens": 80}])
def test_late_masks_change_no_answer(
    tiny_model: Callable[..., Path], options: dict[str, Any], temperature: float
) -> None:
    """Also where sequences give way to others, and are computed again, while their masks are late."""
    weights = _core.Model.load(str(tiny_model(format_name="Q4_0")))

    def answers(pause_s: float) -> list[list[int]]:
        engine = _core.Engine(weights, **{"n_ctx": 256, "n_threads": 1, **options})
        mailbox, found, all_came = _core.Mailbox(), {}, threading.Event()

        def hold(generated: np.ndarray, logits: np.ndarray) -> None:
            assert all_came.wait(120)

        def letters(generated: np.ndarray) -> np.ndarray | None:
            time.sleep(pause_s if len(generated) % 4 == 1 else 0)
            return None if len(generated) % 7 == 6 else mask_of([65 + len(generated) % 3, 90])

        for i in range(5):
            prompt = [65 + i, 66, 67] * 7
            function = letters if i % 2 else None
            params = _core.SamplingParams(temperature=temperature, seed=i)
            processors = [] if i else [hold]
            request, _ = engine.submit(
                prompt, params, mailbox, max_tokens=40, mask_function=function, processors=processors
            )
            found[request] = []
        all_came.set()
        n_open = len(found)
        while n_open:
            for event in mailbox.take(30):
                found[event["id"]] += [sample["token"] for sample in event["samples"]]
                assert event["error"] is None
                n_open -= bool(event["finish"])
        engine.check_integrity()
        assert options.get("kv_tokens") is None or engine.stats()["n_preemptions"] > 0
        return list(found.values())

    assert answers(0.03) == answers(0)
