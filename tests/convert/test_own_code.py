"""Folders that bring code of their own: the llama or Granite model that each of them is, there and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from halfbyte import LLM, _core
from halfbyte.cli.main import main
from halfbyte.convert import plan_folder
from halfbyte.errors import FormatError

from ..model.published import as_exaone, as_internlm2, as_minicpm
from .folders import CONFIG, llama_weights, write_folder

IDS = [3, 200, 17, 99, 42, 5]
ROPE = {
    "rope_theta": 10000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
GRANITE = {
    "model_type": "granite", "embedding_multiplier": 12.0, "attention_multiplier": 0.25, "residual_multiplier": 0.7,
    "logits_scaling": 64 / 256, "architectures": ["GraniteForCausalLM"],
}  # fmt: skip
SAME: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "exaone": (as_exaone, {"rope_parameters": {"rope_theta": 10000.0}}),
    "internlm2": (as_internlm2, {}),
    "minicpm": (as_minicpm, GRANITE),
}


def logits(path: Path) -> np.ndarray:
    with LLM(path, n_ctx=64) as llm:
        return llm.forward(IDS)


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.max(np.abs(found - expected)) <= 1e-5 * np.max(np.abs(expected)))


def both(place: Path, name: str, **changes: Any) -> tuple[Path, Path]:
    """A folder that libraries know, and the same model as its publisher's."""
    publish, told = SAME[name]
    config = CONFIG | told | changes
    plain = write_folder(place / "plain", **config)
    weights, about = publish(llama_weights(), config)
    published = write_folder(place / "published", weights)
    (published / "config.json").write_text(json.dumps(about))
    return plain, published


@pytest.mark.parametrize("name", list(SAME))
def test_the_published_folder_is_the_model_that_libraries_know(name: str, tmp_path: Path) -> None:
    plain, published = both(tmp_path, name)
    expected = logits(plain)
    assert near(logits(published), expected)
    assert main(["convert", str(published), str(tmp_path / "there.gguf")]) == 0
    assert near(logits(tmp_path / "there.gguf"), expected)
    assert main(["convert", str(tmp_path / "there.gguf"), str(tmp_path / "back")]) == 0
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["model_type"] == ("granite" if name == "minicpm" else "llama")
    weights = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    assert all(np.array_equal(weights[name], w) for name, w in llama_weights().items())
    assert near(logits(tmp_path / "back"), expected)


def test_exaones_rope_is_stretched_as_llamas(tmp_path: Path) -> None:
    plain, published = both(tmp_path, "exaone", rope_parameters=ROPE)
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | {"rope_scaling": ROPE}))
    assert near(logits(published), logits(plain))


def test_groups_of_other_sizes_are_refused(tmp_path: Path) -> None:
    _, published = both(tmp_path, "internlm2")
    weights = safetensors.numpy.load_file(published / "model.safetensors")
    for shape in ((), (0,), (127, 64), (1,)):
        weights["model.layers.1.attention.wqkv.weight"] = np.zeros(shape, np.float32)
        safetensors.numpy.save_file(weights, published / "model.safetensors")
        with pytest.raises(FormatError, match=r"wqkv.* rows are not those of 4 \+ 2 x 2 heads"):
            plan_folder(published)


def test_an_adapter_of_the_fused_matrix_changes_its_three_parts(tmp_path: Path) -> None:
    _, published = both(tmp_path, "internlm2")
    weights, draw = safetensors.numpy.load_file(published / "model.safetensors"), np.random.default_rng(4)
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    adapter.mkdir()
    changes = {}
    for layer in range(2):
        stem = f"model.layers.{layer}.attention.wqkv"
        a, b = (draw.normal(size=shape).astype(np.float32) * 0.2 for shape in ((4, 64), (128, 4)))
        changes |= {f"base_model.model.{stem}.lora_A.weight": a, f"base_model.model.{stem}.lora_B.weight": b}
        weights[f"{stem}.weight"] = weights[f"{stem}.weight"] + 2 * b @ a
    safetensors.numpy.save_file(changes, adapter / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["wqkv"]}
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    shutil.copytree(published, merged)
    safetensors.numpy.save_file(weights, merged / "model.safetensors")
    with LLM(published, n_ctx=64, kv_type="f32", lora={str(adapter): 1.0}) as llm:
        found, without = llm.forward(IDS), llm.forward(IDS, lora={})
    with LLM(merged, n_ctx=64, kv_type="f32") as llm:
        assert near(found, llm.forward(IDS))
    assert not np.allclose(found, without, atol=1e-2)
    changes["base_model.model.model.layers.1.attention.wqkv.lora_B.weight"] = np.zeros((127, 4), np.float32)
    safetensors.numpy.save_file(changes, adapter / "adapter_model.safetensors")
    with pytest.raises(FormatError, match="127 rows are not those of"):
        LLM(published, n_ctx=64, lora={str(adapter): 1.0})


def test_early_files_of_minicpm_leave_their_multipliers_to_the_reader(tmp_path: Path) -> None:
    early = {
        "general.architecture": "minicpm", "minicpm.block_count": 2, "minicpm.embedding_length": 64,
        "minicpm.context_length": 128, "minicpm.feed_forward_length": 96, "minicpm.attention.head_count": 4,
        "minicpm.attention.head_count_kv": 2, "minicpm.attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    _, published = both(tmp_path, "minicpm", residual_multiplier=1.4 / 2**0.5)
    assert main(["convert", str(published), str(tmp_path / "told.gguf")]) == 0
    told = _core.GgufFile(str(tmp_path / "told.gguf"))
    kept = {k: v for k, v in told.metadata.items() if k.startswith(("tokenizer.", "minicpm.rope"))}
    rows = [(t.name, t.format, list(t.shape), told.tensor_data(t.name)) for t in told.tensors]
    _core.write_gguf(str(tmp_path / "early.gguf"), kept | early, rows)
    assert near(logits(tmp_path / "early.gguf"), logits(tmp_path / "told.gguf"))
    assert main(["convert", str(tmp_path / "early.gguf"), str(tmp_path / "back")]) == 0
    assert near(logits(tmp_path / "back"), logits(tmp_path / "told.gguf"))
    _core.write_gguf(str(tmp_path / "odd.gguf"), kept | early | {"minicpm.block_count": "two"}, rows)
    assert main(["convert", str(tmp_path / "odd.gguf"), str(tmp_path / "odd")]) == 1
