"""Programs on a tiny random model: what parts give, forks side by side, likelihoods, conversations, errors."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from halfbyte import LLM
from halfbyte.errors import ContextOverflowError, InvalidArgumentError
from halfbyte.program import Program, gen, select


@pytest.fixture(scope="module")
def llm(tiny_model: Callable[..., Path]) -> Iterator[LLM]:
    with LLM(tiny_model(n_ctx=1024), n_threads=1, n_ctx=1024) as loaded:
        yield loaded
        loaded._engine.check_integrity()


def test_a_program_is_what_its_parts_say(llm: LLM) -> None:
    p = Program(llm, temperature=0)
    p += (
        "A number: "
        + gen("n", response_format=re.compile("[0-9]{3}"))
        + " and "
        + gen("list", response_format=list[bool], max_tokens=200, seed=1)
    )
    p += "; " + gen(max_tokens=4, ignore_eos=True)
    number = llm.generate("A number: ", response_format=re.compile("[0-9]{3}"), temperature=0).text
    assert p["n"] == number
    assert str(p).startswith(f"A number: {number} and [")
    assert isinstance(p["list"], list)
    assert p.values.keys() == {"n", "list"}
    with pytest.raises(InvalidArgumentError, match='called "m"'):
        p["m"]


def test_select_takes_the_likeliest(llm: LLM) -> None:
    prompt, choices = "The answer is ", ["yes", "no", "perhaps not", "yes!"]
    p = Program(llm)
    p += prompt + select("a", choices)
    n_prompt = len(llm.tokenize(prompt))
    expected = {c: float(llm.logprobs(prompt + c)[n_prompt - 1 :].sum()) for c in choices}
    assert p.scores("a") == pytest.approx(expected, rel=1e-3)
    assert p["a"] == max(choices, key=lambda c: expected[c])
    assert p.text == prompt + p["a"]
    mean = Program(llm)
    mean += prompt + select("a", choices, per_token=True)
    assert mean.scores("a") == pytest.approx({c: s / len(c) for c, s in expected.items()}, rel=1e-3)
    same = Program(llm)
    same += "x" + select("only", ["one"])
    assert same["only"] == "one"


def test_forks_run_side_by_side_on_one_prefix(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    p = Program(llm, ignore_eos=True, max_tokens=60, temperature=0.7)
    p += "A long beginning that all the branches share, of more than sixteen tokens. " + gen(
        "head", max_tokens=5, seed=9
    )
    branches = p.fork(6)
    assert p.text
    meeting, generate = threading.Barrier(6), llm.generate

    def met(*args: Any, **options: Any) -> Any:
        meeting.wait(120)  # breaks unless all six branches are here at once
        return generate(*args, **options)

    monkeypatch.setattr(llm, "generate", met)
    for i, branch in enumerate(branches):
        branch += f"{i}:" + gen("a", seed=i) + "/" + gen("b", seed=i)
    texts = [branch.text for branch in branches]
    monkeypatch.undo()
    for i, branch in enumerate(branches):
        alone = llm.generate(p.text + f"{i}:", seed=i, ignore_eos=True, max_tokens=60, temperature=0.7)
        assert branch["a"] == alone.text
        assert branch["head"] == p["head"]
        assert texts[i].startswith(p.text + f"{i}:{alone.text}/")
    assert "a" not in p.values
    again = p.fork(1)[0]
    again += gen("c", max_tokens=1)
    assert again["c"] is not None


def test_conversations(llm: LLM) -> None:
    p = Program(llm, temperature=0, max_tokens=6, ignore_eos=True)
    p.system("Be brief.").user("Name a sea.").assistant(
        "The " + gen("sea") + " or the " + select("other", ["Baltic", "Red Sea"])
    )
    first = llm.chat_ids([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a sea."}])
    assert llm.generate([*first, *llm.tokenize("The", add_bos=False)], temperature=0, max_tokens=1).token_ids
    assert [m["role"] for m in p.messages] == ["system", "user", "assistant"]
    assert p.text == f"The {p['sea']} or the {p['other']}"
    p.user("Another?").assistant(gen("more"))
    assert p.messages[-1]["content"] == p["more"]
    asked = llm.chat(p.messages[:-1], temperature=0, max_tokens=6, ignore_eos=True)
    assert asked.text == p["more"]


def test_errors_come_out_where_results_are_read(llm: LLM) -> None:
    p = Program(llm)
    p += "x" * 2000 + gen("a") + "more" + select("b", ["1", "2"])
    with pytest.raises(ContextOverflowError):
        p["b"]
    with pytest.raises(ContextOverflowError):
        _ = p.fork(1)[0].text
    for bad in (lambda: Program(llm).__iadd__(3), lambda: select("x", []), lambda: Program(llm).fork(0)):
        with pytest.raises(InvalidArgumentError):
            bad()
    mixed = Program(llm)
    mixed += "text"
    mixed.user("Hi")
    with pytest.raises(InvalidArgumentError, match="either a text or a conversation"):
        _ = mixed.text
    mute = Program(llm).user("Hi")
    mute += gen()
    with pytest.raises(InvalidArgumentError, match="assistant"):
        _ = mute.text


def test_many_branches_of_branches_do_not_lock_up(llm: LLM) -> None:
    p = Program(llm, max_tokens=2, ignore_eos=True, seed=1)
    leaves = [p]
    for _ in range(7):
        leaves = [branch for leaf in leaves for branch in leaf.fork(2)]
        for leaf in leaves:
            leaf += "." + gen()
    assert len({leaf.text for leaf in leaves}) >= 1
    assert len(leaves) == 128
