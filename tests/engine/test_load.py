"""Many requests at once: streams go on beside long prompts, the queue has an end, who leaves takes nothing along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_a_stream_gets_a_token_with_each_piece_of_a_long_prompt(tiny_model: Callable[..., Path]) -> None:
    engine, mailbox = open_engine(tiny_model, n_batch=64, prompt_lookup=False), _core.Mailbox()
    greedy = _core.SamplingParams(temperature=0)
    stream, _ = engine.submit([70], greedy, mailbox, max_tokens=1000)
    until(mailbox, lambda e: bool(e["samples"]))
    prompt, _ = engine.submit(LONG, greedy, mailbox, max_tokens=1)
    events = until(mailbox, lambda e: e["id"] == prompt and e["finish"] != "")
    pieces = [e for e in events if e["id"] == prompt]
    first = events.index(pieces[0])
    assert len(pieces) >= len(LONG) // 64
    n_tokens = sum(len(e["samples"]) for e in events[first:] if e["id"] == stream)
    assert n_tokens >= len(pieces) - 1
    engine.cancel(stream)


def test_a_short_prompt_does_not_wait_for_long_ones(tiny_model: Callable[..., Path]) -> None:
    engine, mailbox = open_engine(tiny_model, n_batch=64, kv_tokens=20000, prefix_cache=False), _core.Mailbox()
    greedy = _core.SamplingParams(temperature=0)
    long = [engine.submit([i, *LONG], greedy, mailbox, max_tokens=1)[0] for i in range(40, 50)]
    short, _ = engine.submit([70] * 10, greedy, mailbox, max_tokens=1)
    # The engine has begun before the short one is there, so some long ones may rightly be first; in turn it would be last.
    events = until(mailbox, lambda e: e["id"] == short and e["finish"] != "")
    finished = [e["id"] for e in events if e["finish"]]
    assert len(finished[: finished.index(short)]) < len(long) // 2
    left = set(long) - set(finished)
    while left:
        left -= {e["id"] for e in mailbox.take(30) if e["finish"]}


def test_the_queue_has_an_end(tiny_model: Callable[..., Path]) -> None:
    engine = open_engine(tiny_model, max_sequences=1, max_waiting=3)
    mailbox, greedy = _core.Mailbox(), _core.SamplingParams(temperature=0)
    accepted = []

    def fill() -> None:
        for _ in range(1000):
            accepted.append(engine.submit(LONG, greedy, mailbox, max_tokens=300)[0])

    with pytest.raises(BusyError, match="waiting"):
        fill()
    assert 3 <= len(accepted) <= 8
    for request in accepted:
        engine.cancel(request)
    left = set(accepted)
    while left:
        left -= {e["id"] for e in mailbox.take(30) if e["finish"]}
    engine.check_integrity()
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
