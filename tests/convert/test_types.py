"""A tiny random model of each architecture: folder -> GGUF -> every type -> run; and llama.cpp reads the same logits.

The types run with PyTorch there (pytest -m parity: the mixes of TYPES; HALFBYTE_ALL_TYPES=1: all, in about eight
minutes of one core). llama.cpp's part needs a Python with llama-cpp-python: HALFBYTE_LLAMA_CPP=/path/to/python pytest
-m llama_cpp (.ci/more makes one).
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM, _core
from halfbyte.cli.main import main
from halfbyte.convert.families import FAMILIES as HELD
from halfbyte.quantize import MIXES

from ..conftest import REPOSITORY
from ..model.conversion import LONGROPE
from ..model.families import FAMILIES, make_model, save_folder
from .folders import write_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

#: One mix of each kind of block. HALFBYTE_ALL_TYPES takes them all, of one model of each architecture.
TYPES = ["F16", "Q8_0", "Q4_0", "Q5_1", "Q2_K", "Q4_K_M", "IQ1_S", "IQ3_XXS", "IQ4_XS", "TQ2_0", "MXFP4_MOE"]

# Squared error of a format's weights over their squares: what llama.cpp's encoder has on heavier tails than these.
_ERRORS = json.loads((REPOSITORY / "tests" / "quantize" / "reference_errors.json").read_text())["errors"]
WEIGHT_ERROR = {name: figures["plain"] for name, figures in _ERRORS.items()} | {"F32": 0.0, "F16": 2e-7, "BF16": 4e-6}
# Gates multiply two outputs, and scores are exponents: what a layer makes of errors is more than their sum.
NOT_LINEAR = 1.5
# Two unrelated vectors of one size are sqrt(2) apart; what runs at all stays nearer than that.
UNRELATED = 1.3


# Rows of 256 weights, which blocks of 256 divide; heads stay as they are.
WIDE = {
    "vocab_size": 264, "hidden_size": 256, "n_embd": 256, "num_attention_heads": 16, "n_head": 16,
    "intermediate_size": 512, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256,
    "shared_intermediate_size": 256,
    "attention_multiplier": 0.2,  # the default of 1 makes scores so large that any error decides them
}  # fmt: skip
# All experts take part: which are the best is a step, and no bound on the weights' error says where a token falls.
EXPERTS = {
    "num_experts": "num_experts_per_tok", "num_local_experts": "num_experts_per_tok",
    "n_routed_experts": "num_experts_per_tok", "moe_num_experts": "moe_k",
}  # fmt: skip
# What llama.cpp does not compute: windows of Mistral and Phi, fewer heads of k than of q (OLMoE, dots.llm1), a YaRN ramp that
# begins and ends within a pair (gpt-oss), biases of ERNIE's MLP, norms of Qwen 2 VL with an epsilon; and its contexts are
# 256 long at least (LongRoPE). And logits so large that any error decides a perplexity (MiniCPM's, of wide models).
CHANGES: dict[str, dict[str, Any]] = {
    "mistral-window": {"sliding_window": 64},
    "phi3": {"sliding_window": 64},
    "phi3-longrope": {
        "max_position_embeddings": 1024, "original_max_position_embeddings": 512,
        "rope_parameters": LONGROPE | {"original_max_position_embeddings": 512},
    },
    "minicpm-longrope": {
        "logits_scaling": 4.0, "max_position_embeddings": 1024,
        "rope_parameters": LONGROPE | {"original_max_position_embeddings": 512},
    },
    "olmoe": {"num_key_value_heads": 16},
    "dots1": {"num_key_value_heads": 16},
    "gpt-oss": {"rope_parameters": FAMILIES["gpt-oss"].arguments["rope_parameters"] | {"truncate": True}},
    "ernie4_5": {"use_bias": False},
    "minicpm": {"logits_scaling": 4.0},
    "qwen2vl": {"rms_norm_eps": 1e-12},
    "qwen2.5vl": {"rms_norm_eps": 1e-12},
    # All experts take part of these, too; and a weight of 16 for each lets their roundings decide everything.
    "deepseek2": {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0},
    "deepseek3": {"n_group": 1, "topk_group": 1},
    # Four layers of two bits a weight leave nothing that a bound could hold.
    "deepseek2-lite": {"num_hidden_layers": 2},
    "hunyuan-moe": {"moe_topk": 8},
    # llama.cpp takes sparse gates in the first ten layers, shared caches from the twenty-first on, and estimates deviations
    # with n - 1: in narrow rows, and behind many layers, that is another model.
    "gemma3n": {
        "num_hidden_layers": 5, "layer_types": None, "activation_sparsity_pattern": [0.95] * 5, "num_kv_shared_layers": 0,
        "intermediate_size": 4096, "laurel_rank": 64, "hidden_size_per_layer_input": 256,
    },
    "gemma3n-published": {"hidden_size_per_layer_input": 256},
    "gemma4": {"hidden_size_per_layer_input": 256},  # rows of whole blocks
    "gemma4-moe": {"top_k_experts": 8},
}  # fmt: skip
# Variants that llama.cpp does not load: it wants experts in every layer, and tells Command R+ and the large EXAONE 4 by
# their 64 layers, DeepSeek 2 Lite by its 27; and Gemma 3n of three streams.
NOT_IN_LLAMA_CPP = {"gemma3n-published", "qwen3moe-half-dense", "command-r-plus", "exaone4-window", "deepseek2-lite"}
FIRST = {family.arch: name for name, family in reversed(FAMILIES.items())}


def types_of(name: str) -> list[str]:
    """The mixes that a model is tried in."""
    is_all = os.environ.get("HALFBYTE_ALL_TYPES") and FIRST[FAMILIES[name].arch] == name
    return list(MIXES) if is_all else TYPES


def wide(arguments: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A family's arguments with rows of 256 weights."""
    if "text_config" in arguments:
        return arguments | {"text_config": wide(arguments["text_config"], changes)}
    out = arguments | {key: value for key, value in WIDE.items() if key in arguments} | {"vocab_size": 264}
    out |= {key: 264 for key in arguments if key.startswith("vocab_size")}
    if "residual_multiplier" in arguments:
        out["attention_multiplier"] = WIDE["attention_multiplier"]
    if arguments.get("num_key_value_heads") == 4:
        out["num_key_value_heads"] = 16
    return out | {used: out[all_] for all_, used in EXPERTS.items() if all_ in out} | changes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> the family's F32 file, converted from the folder that transformers writes."""
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")
    place = tmp_path_factory.mktemp("types")

    def make(name: str) -> Path:
        out = place / f"{name}.gguf"
        if not out.exists():
            folder = place / name / "tiny"  # a name that programs know would make them expect its vocabulary
            arguments = wide(FAMILIES[name].arguments, CHANGES.get(name, {}))
            family = dataclasses.replace(FAMILIES[name], arguments=arguments)
            save_folder(make_model(family), family, folder)
            write_tokenizer(folder)
            assert main(["convert", str(folder), str(out), "--type", "f32"]) == 0
        return out

    return make


def logits(path: Path, ids: list[int]) -> np.ndarray:
    with LLM(path, n_ctx=64, kv_type="f32") as llm:
        return llm.forward(ids)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the error over that of what was expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parity
@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_type_runs_within_its_error(name: str, files: Any, tmp_path: Path) -> None:
    source = files(name)
    original = _core.GgufFile(str(source))
    weights = {t.name: original.tensor_f32(t.name) for t in original.tensors}
    ids = np.random.default_rng(5).integers(3, 250, 40).tolist()
    expected = logits(source, ids)
    out = tmp_path / "out.gguf"
    for mix in types_of(name):
        assert main(["quantize", str(source), str(out), mix]) == 0
        file, error, energy, n_matrices = _core.GgufFile(str(out)), 0.0, 0.0, 0
        for tensor in file.tensors:
            before = weights[tensor.name]
            if before.ndim < 2:
                assert tensor.format == "F32"
                continue
            rest, size = np.sum((file.tensor_f32(tensor.name) - before) ** 2), np.sum(before**2)
            assert rest <= 1.05 * WEIGHT_ERROR[tensor.format] * size, (mix, tensor.name, tensor.format, rest / size)
            error, energy, n_matrices = error + rest, energy + size, n_matrices + 1
        # The errors of matrices are independent: they add up as squares on the way to the logits. Activations are rounded
        # to eight bits besides where weights are in blocks.
        bound = min(NOT_LINEAR * np.sqrt(n_matrices * error / energy) + 0.02, UNRELATED)
        found = logits(out, ids)
        assert relative(found, expected) <= bound, (mix, relative(found, expected), bound)


class LlamaCpp:
    """llama.cpp's logits, by the Python that has llama-cpp-python. A model that it dies of is that model's failure."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, path: Path, ids: list[int]) -> np.ndarray:
        if self._process is None:
            python = os.environ.get("HALFBYTE_LLAMA_CPP", sys.executable)
            command = [python, str(Path(__file__).with_name("llama_cpp_logits.py"))]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, text=True, **pipes)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out = path.with_suffix(".npy")
        self._process.stdin.write(json.dumps({"model": str(path), "ids": ids, "out": str(out)}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.startswith('"'):
            self.close()
            pytest.fail(f"llama.cpp died: {answer}")
        problem = json.loads(answer)
        assert not problem, problem
        return np.asarray(np.load(out))

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def llama_cpp() -> Any:
    program = LlamaCpp()
    yield program
    program.close()


def same(path: Path, ids: list[int], llama_cpp: Any, mix: str) -> None:
    """Logits and perplexity of both programs."""
    theirs, ours = llama_cpp(path, ids), logits(path, ids)
    # Both round activations to eight bits beside blocks, each in its own groups; it rounds them to bfloat16 beside that.
    error, shift = {"F32": (2e-3, 1e-3), "F16": (2e-3, 1e-3), "BF16": (0.015, 5e-3)}.get(mix, (0.06, 0.03))
    assert relative(ours, theirs) <= error, (mix, relative(ours, theirs))
    assert abs(perplexity(ours, ids) / perplexity(theirs, ids) - 1) <= shift, mix


@pytest.mark.llama_cpp
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NOT_IN_LLAMA_CPP])
def test_llama_cpp_reads_the_same_model(name: str, files: Any, llama_cpp: Any, tmp_path: Path) -> None:
    ids = np.random.default_rng(5).integers(3, 250, 40).tolist()
    same(files(name), ids, llama_cpp, "F32")
    for mix in ("Q8_0", "Q4_K_M", "IQ2_XS"):
        assert main(["quantize", str(files(name)), str(tmp_path / "out.gguf"), mix]) == 0
        same(tmp_path / "out.gguf", ids, llama_cpp, mix)


@pytest.mark.llama_cpp
@pytest.mark.parametrize("name", ["llama", "mixtral"])
@pytest.mark.parametrize("mix", list(MIXES))
def test_llama_cpp_reads_every_type(mix: str, name: str, files: Any, llama_cpp: Any, tmp_path: Path) -> None:
    ids = np.random.default_rng(5).integers(3, 250, 40).tolist()
    assert main(["quantize", str(files(name)), str(tmp_path / "out.gguf"), mix]) == 0
    same(tmp_path / "out.gguf", ids, llama_cpp, mix)


def test_every_architecture_that_folders_hold_is_converted_and_compared() -> None:
    held = {family.arch for family in HELD}
    assert {family.arch for family in FAMILIES.values()} == held
    assert {FAMILIES[name].arch for name in FAMILIES if name not in NOT_IN_LLAMA_CPP} == held


def perplexity(rows: np.ndarray, ids: list[int]) -> float:
    shifted = rows[:-1].astype(np.float64) - rows[:-1].max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(np.exp(-np.mean(logs[np.arange(len(ids) - 1), ids[1:]])))
