"""Many requests at once: streams go on beside long prompts, the queue has an end, who leaves takes nothing along."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM, _core
from halfbyte.errors import BusyError, InvalidArgumentError

LONG = [i % 90 + 33 for i in range(1600)]


def open_engine(tiny_model: Callable[..., Path], **options: Any) -> _core.Engine:
    weights = _core.Model.load(str(tiny_model(format_name="Q4_0", n_ctx=2048)))
    return _core.Engine(weights, **{"n_ctx": 2048, "n_threads": 1, **options})


def until(mailbox: _core.Mailbox, done: Callable[[dict], bool]) -> list[dict]:
    """Events up to the one that `done` says yes to (and those that came with it)."""
    events: list[dict] = []
    while not any(done(e) for e in events):
        events += mailbox.take(30)
    return events


class Steps:
    """A logits processor of a stream, by which a test leads the engine's thread from step to step."""

    def __init__(self) -> None:
        self._arrived, self._go_on = threading.Semaphore(0), threading.Semaphore(0)
        self._is_free = False

    def __call__(self, generated: object, logits: object) -> None:
        if not self._is_free:
            self._arrived.release()
            assert self._go_on.acquire(timeout=200)

    def begin(self) -> None:
        """Returns when the engine has computed the stream's first logits; it waits from now on."""
        assert self._arrived.acquire(timeout=200)

    def step(self) -> None:
        self._go_on.release()
        self.begin()

    def free(self) -> None:
        self._is_free = True
        self._go_on.release()


def test_a_stream_gets_a_token_with_each_piece_of_a_long_prompt(tiny_model: Callable[..., Path]) -> None:
    engine, mailbox, steps = open_engine(tiny_model, n_batch=64, prompt_lookup=False), _core.Mailbox(), Steps()
    greedy = _core.SamplingParams(temperature=0)
    stream, _ = engine.submit([70], greedy, mailbox, max_tokens=1000, processors=[steps])
    steps.begin()
    prompt, _ = engine.submit(LONG, greedy, mailbox, max_tokens=1)
    steps.free()
    events = until(mailbox, lambda e: e["id"] == prompt and e["finish"] != "")
    pieces = [e for e in events if e["id"] == prompt]
    first = events.index(pieces[0])
    assert len(pieces) >= len(LONG) // 64
    n_tokens = sum(len(e["samples"]) for e in events[first:] if e["id"] == stream)
    assert n_tokens >= len(pieces) - 1
    engine.cancel(stream)


@pytest.mark.parametrize("output", ["hidden", "logits", "next_logprobs"])
def test_a_stream_goes_on_beside_a_pass(tiny_model: Callable[..., Path], output: str) -> None:
    """The stream holds the engine at each of its tokens: a pass of 25 pieces cannot end without it."""
    engine, mailbox, steps = open_engine(tiny_model, n_batch=64, prompt_lookup=False), _core.Mailbox(), Steps()
    expected = engine.forward(LONG, output=output)
    stream, _ = engine.submit([70], _core.SamplingParams(temperature=0), mailbox, max_tokens=1500, processors=[steps])
    steps.begin()
    steps.step()  # the stream's own prompt is counted now
    n_before, n_read, n_steps = engine.stats()["n_prompt_tokens"], 0, 0
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(engine.forward(LONG, output=output)))
    thread.start()
    while n_read < len(LONG):  # a pass that stood still would outlast the stream, and step() would wait in vain
        steps.step()
        n_read = engine.stats()["n_prompt_tokens"] - n_before
        n_steps += n_read > 0  # the thread may need a while to ask
    steps.free()
    thread.join()
    assert len(LONG) // 64 <= n_steps
    assert np.array_equal(found[0], expected)
    engine.cancel(stream)
    assert until(mailbox, lambda e: e["finish"] == "cancelled")
    engine.check_integrity()


def test_a_short_prompt_does_not_wait_for_long_ones(tiny_model: Callable[..., Path]) -> None:
    engine = open_engine(tiny_model, n_batch=64, kv_tokens=10000, prefix_cache=False)
    stream_mailbox, mailbox, steps = _core.Mailbox(), _core.Mailbox(), Steps()
    greedy = _core.SamplingParams(temperature=0)
    stream, _ = engine.submit([70], greedy, stream_mailbox, processors=[steps])
    steps.begin()
    long = [engine.submit([i, *LONG], greedy, mailbox, max_tokens=1)[0] for i in range(40, 44)]
    steps.step()
    steps.step()
    begun = {e["id"] for e in mailbox.take(30)}
    short, _ = engine.submit([70] * 10, greedy, mailbox, max_tokens=1)
    steps.free()
    engine.cancel(stream)
    events = until(mailbox, lambda e: e["id"] == short and e["finish"] != "")
    assert begun <= set(long)
    assert not any(e["finish"] for e in events if e["id"] in long)
    left = set(long)
    while left:
        left -= {e["id"] for e in mailbox.take(30) if e["finish"]}


def test_the_queue_has_an_end(tiny_model: Callable[..., Path]) -> None:
    engine = open_engine(tiny_model, max_sequences=1, max_waiting=3)
    mailbox, greedy, steps = _core.Mailbox(), _core.SamplingParams(temperature=0), Steps()
    accepted = [engine.submit(LONG, greedy, mailbox, max_tokens=300, processors=[steps])[0]]
    steps.begin()
    accepted += [engine.submit(LONG, greedy, mailbox, max_tokens=300)[0] for _ in range(3)]
    with pytest.raises(BusyError, match="3 requests are waiting"):
        engine.submit(LONG, greedy, mailbox, max_tokens=300)
    steps.step()
    with pytest.raises(BusyError, match="3 requests are waiting"):
        engine.submit(LONG, greedy, mailbox, max_tokens=300)
    for request in accepted:
        engine.cancel(request)
    steps.free()
    left = set(accepted)
    while left:
        left -= {e["id"] for e in mailbox.take(30) if e["finish"]}
    assert engine.stats()["n_waiting"] == 0
    engine.submit([70], greedy, mailbox, max_tokens=1)
    assert until(mailbox, lambda e: e["finish"] == "length")


def test_cancelled_in_the_middle_of_a_prompt(tiny_model: Callable[..., Path]) -> None:
    engine, mailbox = open_engine(tiny_model, n_batch=2048, prefix_cache=False), _core.Mailbox()
    for _ in range(5):
        requests = [engine.submit(LONG, _core.SamplingParams(), mailbox, max_tokens=50)[0] for _ in range(3)]
        for request in requests:
            engine.cancel(request)
        left = set(requests)
        while left:
            left -= {e["id"] for e in mailbox.take(30) if e["finish"]}
        stats = engine.stats()
        assert stats["n_running"] == stats["n_waiting"] == 0
    engine.check_integrity()
    stats = engine.stats()
    assert stats["n_running"] == stats["n_waiting"] == 0
    assert stats["n_blocks_free"] == stats["n_blocks"]


def test_llm_with_a_draft_model(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_model(format_name="Q8_0")
    with LLM(path, n_ctx=128, n_threads=1, prompt_lookup=False) as llm:
        expected = llm.generate("Hello", temperature=0, max_tokens=50, ignore_eos=True).token_ids
    with LLM(path, n_ctx=128, n_threads=1, draft_model=tiny_model(format_name="Q4_0")) as llm:
        assert llm.generate("Hello", temperature=0, max_tokens=50, ignore_eos=True).token_ids == expected
        assert llm.stats()["n_drafted_tokens"] > 0
    with pytest.raises(InvalidArgumentError, match="max_waiting"):
        LLM(path, max_waiting=-1)
