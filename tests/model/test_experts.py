"""Models with experts, as files: what the engine, the quantizer and the estimates make of them; and files that lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM, SamplingParams, _core
from halfbyte.cli.main import main
from halfbyte.errors import FormatError, UnsupportedError
from halfbyte.machine import estimate_memory
from halfbyte.quantize import Importance

Tiny = Callable[..., Path]
IDS = np.random.default_rng(2).integers(0, 256, 70).tolist()


def logits(path: Path, **options: Any) -> np.ndarray:
    load = {k: options.pop(k) for k in ("mmap", "n_threads") if k in options}
    engine = _core.Engine(_core.Model.load(str(path), **load), n_ctx=128, k_type="f32", v_type="f32", **options)
    return engine.forward(IDS)


@pytest.mark.parametrize("form", ["F32", "Q8_0"])
def test_same_bits_for_any_chunking_and_threads(tiny_model: Tiny, form: str) -> None:
    path = tiny_model(n_experts=5, format_name=form)
    expected = logits(path, n_batch=70)
    for options in ({"n_batch": 1}, {"n_batch": 9}, {"n_batch": 64, "n_threads": 3}):
        assert np.array_equal(logits(path, **options), expected)
    assert np.corrcoef(logits(path, mmap=True).ravel(), expected.ravel())[0, 1] > (0.999999 if form == "F32" else 0.98)


def test_greedy_text_does_not_depend_on_the_batch(tiny_model: Tiny) -> None:
    prompts = [[3 + i] * (5 + 7 * i) for i in range(4)]
    with LLM(tiny_model(n_experts=5, format_name="Q8_0"), n_ctx=128) as llm:
        params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
        alone = [llm.generate(p, params).token_ids for p in prompts]
        together = [r.token_ids for r in llm.generate(prompts, params)]
    assert alone == together


def test_the_experts_are_those_of_the_router(tiny_model: Tiny) -> None:
    """Weights of an expert that no row chooses change nothing; those of the others do."""
    path = tiny_model(n_experts=4)
    model = _core.Model.load(str(path))
    collector = _core.ImportanceCollector(model, n_ctx=128)
    collector.add(IDS)
    seen = collector.sums()
    for part in ("gate", "up", "down"):
        squares, inputs, counts = seen[f"blk.0.ffn_{part}_exps.weight"]
        assert squares.shape == inputs.shape == (4, 96 if part == "down" else 64)
        assert counts.shape == (4,)
        assert counts.sum() == 2 * len(IDS)
    assert np.array_equal(seen["blk.0.ffn_gate_exps.weight"][0], seen["blk.0.ffn_up_exps.weight"][0])
    everything = seen["blk.0.ffn_gate_inp.weight"][0][0]
    np.testing.assert_allclose(seen["blk.0.ffn_up_exps.weight"][0].sum(0), 2 * everything, rtol=1e-4)


def test_quantized_by_a_mix_with_importance_of_each_expert(tiny_model: Tiny, tmp_path: Path) -> None:
    source, text = tiny_model(n_experts=4), tmp_path / "text"
    text.write_text("The experts of a model are chosen by its router. " * 20)
    imatrix = ["imatrix", "-m", str(source), "-f", str(text), "-o", str(tmp_path / "i.gguf"), "-c", "64"]
    assert main(imatrix) == 0
    importance = Importance.load(tmp_path / "i.gguf")
    assert importance.sums["blk.1.ffn_down_exps.weight"].shape == (4, 96)
    out = tmp_path / "q.gguf"
    assert main(["quantize", str(source), str(out), "q4_0", "--imatrix", str(tmp_path / "i.gguf")]) == 0
    formats = {t.name: (t.format, list(t.shape)) for t in _core.GgufFile(str(out)).tensors}
    assert formats["blk.0.ffn_up_exps.weight"] == ("Q4_0", [64, 96, 4])
    assert formats["blk.0.ffn_gate_inp.weight"][0] == "F32"
    found, expected = logits(out), logits(source)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.8


def test_split_and_merged(tiny_model: Tiny, tmp_path: Path) -> None:
    source = tiny_model(n_experts=4)
    assert main(["split", str(source), str(tmp_path / "part"), "--max-tensors", "9"]) == 0
    first = sorted(tmp_path.glob("part-*.gguf"))[0]
    assert np.array_equal(logits(first), logits(source))


def test_estimates_tell_what_is_read_for_a_token(tiny_model: Tiny) -> None:
    found = estimate_memory(tiny_model(n_experts=8))
    assert found["active_bytes"] < 0.6 * found["weight_bytes"]
    dense = estimate_memory(tiny_model())
    assert dense["active_bytes"] == dense["weight_bytes"]


def rewritten(source: Path, out: Path, change: Callable[[dict[str, Any], list[Any]], None]) -> Path:
    file = _core.GgufFile(str(source))
    metadata = dict(file.metadata)
    tensors = [[t.name, t.format, list(t.shape), file.tensor_data(t.name).tobytes()] for t in file.tensors]
    change(metadata, tensors)
    _core.write_gguf(str(out), metadata, [tuple(t) for t in tensors])
    return out


def rename(old: str, new: str) -> Callable[[dict[str, Any], list[Any]], None]:
    def change(_: dict[str, Any], tensors: list[Any]) -> None:
        for tensor in tensors:
            tensor[0] = tensor[0].replace(old, new)

    return change


def flatten(_: dict[str, Any], tensors: list[Any]) -> None:
    for tensor in tensors:
        if "ffn_down_exps" in tensor[0]:
            tensor[2] = [tensor[2][0], tensor[2][1] // 2, tensor[2][2] * 2]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda m, t: m.update({"llama.expert_used_count": 9}), FormatError, "expert_used_count is 9"),
        (lambda m, t: m.update({"llama.expert_count": 7}), FormatError, "7"),
        (lambda m, t: m.update({"llama.expert_count": 1 << 20}), FormatError, "expert_count"),
        (lambda m, t: m.update({"llama.expert_gating_func": 9}), UnsupportedError, "function 9"),
        (lambda m, t: m.update({"llama.expert_group_count": 2}), FormatError, "expert_group_used_count is missing"),
        (
            lambda m, t: m.update({"llama.expert_group_count": 4, "llama.expert_group_used_count": 1}),
            FormatError,
            "4 groups",
        ),
        (lambda m, t: m.update({"llama.expert_group_count": 1 << 20}), FormatError, "expert_group_count"),
        (rename("ffn_up_exps", "ffn_other"), FormatError, "ffn_up_exps.weight is missing"),
        (rename("ffn_up_exps", "ffn_up.0"), UnsupportedError, "tensor of its own"),
        (rename("ffn_gate_exps", "ffn_other"), FormatError, "ffn_gate_exps.weight is missing"),
        (flatten, FormatError, "ffn_down_exps"),
    ],
)
def test_files_that_lie(tiny_model: Tiny, tmp_path: Path, change: Any, error: type[Exception], says: str) -> None:
    path = rewritten(tiny_model(n_experts=4), tmp_path / "m.gguf", change)
    with pytest.raises(error, match=says):
        _core.Model.load(str(path))
