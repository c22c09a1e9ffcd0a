"""Mailboxes: one reader for many requests, failures as events, no waiting after close."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def engine(tiny_model: Callable[..., Path]) -> _core.Engine:
    return _core.Engine(_core.Model.load(str(tiny_model(format_name="Q4_0"))), n_ctx=128, n_threads=1)


def read(mailbox: _core.Mailbox, n_requests: int) -> dict[int, list[dict]]:
    """Events by request, until n_requests have ended."""
    found: dict[int, list[dict]] = {}
    while n_requests:
        for event in mailbox.take(30):
            found.setdefault(event["id"], []).append(event)
            n_requests -= event["finish"] != ""
    return found


def test_one_reader_serves_many_requests(engine: _core.Engine) -> None:
    greedy = _core.SamplingParams(temperature=0)
    prompts = [[i + 40] * (5 + 7 * i) for i in range(8)]
    alone = []
    for prompt in prompts:
        mailbox = _core.Mailbox()
        engine.submit(prompt, greedy, mailbox, max_tokens=12)
        (events,) = read(mailbox, 1).values()
        alone.append([s["token"] for e in events for s in e["samples"]])
    shared = _core.Mailbox()
    ids = [engine.submit(p, greedy, shared, max_tokens=12)[0] for p in prompts]
    found = read(shared, len(ids))
    assert [[s["token"] for e in found[i] for s in e["samples"]] for i in ids] == alone
    assert all(e["finish"] == "" for events in found.values() for e in events[:-1])


def test_a_failure_is_an_event_of_its_request_alone(engine: _core.Engine) -> None:
    def broken(generated: object, logits: object) -> None:
        raise RuntimeError("on purpose")

    mailbox, params = _core.Mailbox(), _core.SamplingParams(temperature=0)
    bad, _ = engine.submit([5], params, mailbox, max_tokens=4, processors=[broken])
    good, _ = engine.submit([5], params, mailbox, max_tokens=4)
    found = read(mailbox, 2)
    assert found[bad][-1]["finish"] == "error"
    assert isinstance(found[bad][-1]["error"], InvalidArgumentError)
    assert "on purpose" in str(found[bad][-1]["error"])
    assert found[good][-1]["finish"] == "length"
    assert found[good][-1]["error"] is None


def test_close_wakes_the_reader(engine: _core.Engine) -> None:
    mailbox = _core.Mailbox()
    woken: list[list[dict]] = []
    reader = threading.Thread(target=lambda: woken.append(mailbox.take(1000)))
    reader.start()
    mailbox.close()
    reader.join()
    engine.submit([5], _core.SamplingParams(), mailbox, max_tokens=1)
    assert woken == [[]]
    assert mailbox.take(1000) == []
    with pytest.raises(InvalidArgumentError):
        mailbox.take(-1)
