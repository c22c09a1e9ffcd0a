"""Whole models on the device: the same answers as on the CPU, steps replayed, layers split, caches moved."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM, HalfbyteError, SamplingParams, _core
from halfbyte._core import testing

from ..conftest import tiny_gemma4, write_tiny_llama
from ..model.families import FAMILIES, make_model, write_gguf

PROMPT = list(range(40, 75))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf", format_name="Q8_0")


def logits(path: Path, n_gpu_layers: int, **options: object) -> np.ndarray:
    with LLM(path, n_gpu_layers=n_gpu_layers, n_ctx=128, **options) as llm:
        assert llm._weights.n_gpu_layers == min(n_gpu_layers, 2)
        return llm.forward(PROMPT)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("n_gpu_layers", [1, 2])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_logits_are_those_of_the_cpu(model: Path, n_gpu_layers: int, kv_type: str) -> None:
    if kv_type == "q8_0":
        model = write_tiny_llama(model.parent / "wide.gguf", format_name="Q8_0", n_embd=128)
    cpu, gpu = (logits(model, n, kv_type=kv_type) for n in (0, n_gpu_layers))
    assert np.mean((gpu - cpu) ** 2) < 1e-3 * np.mean(cpu**2)


@pytest.mark.usefixtures("gpu")
def test_greedy_text_is_that_of_the_cpu_for_any_batch(model: Path) -> None:
    prompts = [PROMPT[:20], PROMPT[:5]]
    greedy = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    with LLM(model, n_gpu_layers=2, n_ctx=128) as llm:
        # One after another, then together, twice: steps of one row and of two are recorded and replayed.
        alone = [llm.generate(p, greedy).token_ids for p in prompts]
        for _ in range(2):
            assert [o.token_ids for o in llm.generate(prompts, greedy)] == alone
    with LLM(model, n_gpu_layers=0, n_ctx=128) as llm:
        for prompt, found in zip(prompts, alone, strict=True):
            expected = llm.generate(prompt, greedy).token_ids
            same = next((i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b), len(found))
            if same == len(found):
                continue
            # They part where the CPU itself holds two tokens for equally likely, up to rounding.
            row = llm.forward([*prompt, *expected[:same]])[-1]
            assert abs(row[expected[same]] - row[found[same]]) < 0.05 * row.std()


@pytest.mark.parity
@pytest.mark.usefixtures("gpu")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ministral3", "deepseek2-lite", "deepseek3", "gemma3n"])
def test_latent_rows_groups_of_experts_growing_queries_and_streams_are_those_of_the_cpu(
    name: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")
    path = tmp_path / "tiny.gguf"
    write_gguf(make_model(FAMILIES[name]), FAMILIES[name], path)
    cpu, gpu = (
        _core.Engine(_core.Model.load(str(path), n_gpu_layers=n), n_ctx=128, n_batch=16).forward(PROMPT) for n in (0, 4)
    )
    assert np.mean((gpu - cpu) ** 2) < 1e-3 * np.mean(cpu**2)


@pytest.mark.usefixtures("gpu")
def test_wide_heads_and_windows_share_a_pool(tmp_path: Path) -> None:
    """Gemma 4's shapes: a full layer's head of 512 lies where four layers with a window do."""
    path = write_tiny_llama(
        tmp_path / "tiny.gguf", **tiny_gemma4([True] * 4 + [False], windowed=(2, 64), full=(1, 512))
    )
    cpu, gpu = (
        _core.Engine(_core.Model.load(str(path), n_gpu_layers=n), n_ctx=128, n_batch=16, n_threads=1) for n in (0, 5)
    )
    expected, found = cpu.forward(PROMPT), gpu.forward(PROMPT)
    assert np.mean((found - expected) ** 2) < 1e-3 * np.mean(expected**2)
    # Blocks that the first sequences have given back serve layers of the other kind.
    assert np.array_equal(gpu.forward(PROMPT), found)
    gpu.check_integrity()
    greedy = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    with LLM(path, n_gpu_layers=5, n_ctx=128) as llm:
        prompts = [PROMPT, PROMPT[:9]]
        alone = [llm.generate(p, greedy).token_ids for p in prompts]
        assert [o.token_ids for o in llm.generate(prompts, greedy)] == alone
    for prompt, ids in zip(prompts, alone, strict=True):
        rows = cpu.forward([*prompt, *ids])[len(prompt) - 1 : -1]
        assert np.all(rows.max(axis=1) - rows[np.arange(len(ids)), ids] < 0.05 * rows.std())


SEEDED = SamplingParams(temperature=0.9, seed=5, max_tokens=8, ignore_eos=True)
CHAINS = [
    SEEDED,
    SEEDED.replace(temperature=0),
    SEEDED.replace(top_k=7, min_p=0, min_tokens=3),
    SEEDED.replace(repeat_penalty=1.2, frequency_penalty=0.2),
    SEEDED.replace(temperature=0, presence_penalty=1.0),
    SEEDED.replace(top_k=0, top_p=0.9),
]


@pytest.mark.usefixtures("gpu")
def test_the_likely_tokens_decide_as_all_logits_would(model: Path) -> None:
    # Log probabilities are made of all logits, which cross then: the chain is the CPU's.
    with LLM(model, n_gpu_layers=2, n_ctx=128) as llm:
        few = llm.generate([PROMPT] * len(CHAINS), CHAINS)
        for params, found in zip(CHAINS, few, strict=True):
            assert llm.generate(PROMPT, params.replace(logprobs=0)).token_ids == found.token_ids
            assert llm.generate(PROMPT, params).token_ids == found.token_ids


@pytest.mark.usefixtures("gpu")
def test_seeded_text_is_that_of_the_cpu(tmp_path: Path) -> None:
    # Weights and cache in f32, and no draw among dozens of equals: rounding alone must not turn one.
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    params = [SEEDED.replace(seed=seed, temperature=0.3) for seed in (1, 2, 3)]
    texts = {}
    for n_gpu_layers in (0, 2):
        with LLM(model, n_gpu_layers=n_gpu_layers, n_ctx=128, kv_type="f32") as llm:
            texts[n_gpu_layers] = [o.token_ids for o in llm.generate([PROMPT] * 3, params)]
    assert texts[2] == texts[0]
    assert len({tuple(ids) for ids in texts[0]}) == 3


@pytest.fixture
def facts(emulated_library: str) -> Iterator[Any]:
    """What the emulated device counts."""
    testing.open_gpu_library(emulated_library)
    device = ctypes.CDLL(emulated_library)
    for name in ("bytes_downloaded", "launches", "allocations", "bytes_taken"):
        getattr(device, name).restype = ctypes.c_int64
    yield device
    testing.open_gpu_library("")


def test_only_candidates_cross_the_bus(facts: Any, model: Path) -> None:
    with LLM(model, n_gpu_layers=2, n_ctx=128, prompt_lookup=False) as llm:

        def bytes_a_token(params: SamplingParams) -> float:
            before = facts.bytes_downloaded()
            return (llm.generate(PROMPT, params) and facts.bytes_downloaded() - before) / SEEDED.max_tokens

        assert bytes_a_token(SEEDED.replace(temperature=0)) == 8
        assert bytes_a_token(SEEDED) == 64 * 8
        assert bytes_a_token(SEEDED.replace(logprobs=0)) == 4 * llm._weights.n_vocab


def test_a_layer_of_a_decoding_step_is_nine_kernels(facts: Any, tmp_path: Path) -> None:
    """Norm, q k v, heads, attention, its merge, output, norm, gate and up, down: inputs are rounded where they are made."""
    greedy = SamplingParams(temperature=0, ignore_eos=True)

    def launches_of_a_step(n_layers: int) -> float:
        path = write_tiny_llama(tmp_path / f"{n_layers}.gguf", format_name="Q8_0", n_layers=n_layers, n_embd=128)
        with LLM(path, n_gpu_layers=n_layers, n_ctx=64, prompt_lookup=False, prefix_cache=False) as llm:
            counts = []
            for n in (2, 6):
                before = facts.launches()
                llm.generate(PROMPT[:4], greedy, max_tokens=n)
                counts.append(facts.launches() - before)
        return (counts[1] - counts[0]) / 4

    assert launches_of_a_step(2) - launches_of_a_step(1) == 9


@pytest.mark.parametrize("n_experts", [0, 4])
def test_steps_allocate_nothing(facts: Any, tmp_path: Path, n_experts: int) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", format_name="Q8_0", n_experts=n_experts)
    with LLM(path, n_gpu_layers=2, n_ctx=96, n_batch=32, max_sequences=4) as llm:
        before = facts.allocations()
        assert before > 0
        llm.generate([PROMPT, PROMPT[:3], PROMPT[:9]], [SEEDED.replace(max_tokens=3)] * 3)
        llm.generate(PROMPT[:5], temperature=0, max_tokens=3, logprobs=2)
        llm.forward(PROMPT)
        assert facts.allocations() == before


@pytest.mark.usefixtures("gpu")
def test_a_model_larger_than_the_memory_is_refused_with_advice(model: Path) -> None:
    with pytest.raises(HalfbyteError, match=r"GPU memory .* MiB are\s+free"):
        LLM(model, n_gpu_layers=2, n_ctx=1 << 26)


def test_without_a_gpu_layers_for_it_are_refused_with_the_reason(model: Path, tmp_path: Path) -> None:
    testing.open_gpu_library(str(tmp_path / "none.so"))
    try:
        assert not _core.gpu_info()["used"]
        with pytest.raises(HalfbyteError, match="no GPU backend"):
            LLM(model, n_gpu_layers=1)
        with LLM(model, n_ctx=64) as llm:
            assert llm._weights.n_gpu_layers == 0
    finally:
        testing.open_gpu_library("")


def test_a_broken_library_is_a_reason_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "libhalfbyte_cuda.so"
    path.write_bytes(b"no library")
    testing.open_gpu_library(str(path))
    try:
        assert "cannot be opened" in _core.gpu_info()["problem"]
    finally:
        testing.open_gpu_library("")
