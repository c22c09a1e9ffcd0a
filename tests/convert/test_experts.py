"""Experts between folders and GGUF: stacks, fused tensors, gpt-oss's packed blocks; and folders that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from halfbyte import LLM, _core
from halfbyte.convert import plan_folder
from halfbyte.convert.families import family_of_type
from halfbyte.convert.tensors import decode
from halfbyte.convert.to_folder import plan_hf, write_folder
from halfbyte.convert.to_gguf import plan_gguf, write_plan
from halfbyte.errors import FormatError

from .folders import CONFIG, llama_weights, write_tokenizer

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


def mixtral_weights() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(6)
    out = {k: v for k, v in llama_weights().items() if ".mlp." not in k}
    for i in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{i}.block_sparse_moe."
        out[p + "gate.weight"] = draw.normal(0, 0.3, (4, 64)).astype(np.float32)
        for e in range(4):
            for part, shape in (("w1", (96, 64)), ("w2", (64, 96)), ("w3", (96, 64))):
                out[f"{p}experts.{e}.{part}.weight"] = draw.normal(0, 0.1, shape).astype(np.float32)
    return out


def write(folder: Path, weights: dict[str, np.ndarray], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    write_tokenizer(folder)
    return folder


def test_experts_become_stacks_and_come_back(tmp_path: Path) -> None:
    weights = mixtral_weights()
    source = write(tmp_path / "m", weights, **MIXTRAL)
    write_plan(plan_gguf(source), tmp_path / "m.gguf")
    file = _core.GgufFile(str(tmp_path / "m.gguf"))
    found = file.tensor_f32("blk.1.ffn_down_exps.weight").reshape(4, 64, 96)
    for e in range(4):
        assert np.array_equal(found[e], weights[f"model.layers.1.block_sparse_moe.experts.{e}.w2.weight"])
    write_folder(plan_hf(tmp_path / "m.gguf"), tmp_path / "back")
    back = safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[name], weights[name]) for name in weights)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["num_local_experts"] == 4
    with LLM(source, n_ctx=64) as one, LLM(tmp_path / "m.gguf", n_ctx=64) as two:
        assert np.array_equal(one.forward([1, 2, 3]), two.forward([1, 2, 3]))


def test_routers_stay_numbers_when_quantized(tmp_path: Path) -> None:
    plan = plan_gguf(write(tmp_path / "m", mixtral_weights(), **MIXTRAL), "q8_0")
    formats = {t.name: t.format for t in plan.tensors}
    assert formats["blk.0.ffn_gate_inp.weight"] == "F32"
    assert formats["blk.0.ffn_gate_exps.weight"] == "Q8_0"


@pytest.mark.parametrize("gone", ["experts.0.w1", "experts.2.w1"])
def test_missing_experts(tmp_path: Path, gone: str) -> None:
    weights = {k: v for k, v in mixtral_weights().items() if gone not in k}
    with pytest.raises(FormatError, match=r"not numbered|ffn_"):
        LLM(write(tmp_path / "m", weights, **MIXTRAL))


def test_experts_that_differ(tmp_path: Path) -> None:
    weights = mixtral_weights()
    weights["model.layers.0.block_sparse_moe.experts.3.w1.weight"] = np.zeros((95, 64), np.float32)
    with pytest.raises(FormatError, match="differ in shape"):
        LLM(write(tmp_path / "m", weights, **MIXTRAL))


def gpt_oss(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """All tensors but the two packed stacks, hidden size 64, 3 experts of width 32."""

    def numbers(*shape: int) -> np.ndarray:
        return draw.normal(0, 0.2, shape).astype(np.float32)

    out = {k: v for k, v in llama_weights().items() if ".mlp." not in k and "_proj" not in k}
    for i in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
            out[f"{p}self_attn.{name}_proj.weight"], out[f"{p}self_attn.{name}_proj.bias"] = (
                numbers(rows, 64),
                numbers(rows),
            )
        out |= {
            p + "self_attn.sinks": numbers(4),
            p + "mlp.router.weight": numbers(3, 64),
            p + "mlp.router.bias": numbers(3),
            p + "mlp.experts.gate_up_proj_bias": numbers(3, 64),
            p + "mlp.experts.down_proj_bias": numbers(3, 64),
        }
    return out


GPT_OSS = {
    "model_type": "gpt_oss", "num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 16, "intermediate_size": 32,
    "sliding_window": 16, "hidden_act": "silu", "rope_scaling": None,
}  # fmt: skip


def test_packed_blocks_of_gpt_oss_bit_for_bit(tmp_path: Path) -> None:
    draw = np.random.default_rng(12)
    packed, plain = gpt_oss(draw), {}
    plain |= packed
    for i in range(CONFIG["num_hidden_layers"]):
        for name, rows, columns in (("gate_up_proj", 64, 64), ("down_proj", 64, 32)):
            p = f"model.layers.{i}.mlp.experts.{name}"
            blocks = draw.integers(0, 256, (3, rows, columns // 32, 16), dtype=np.uint8)
            scales = draw.integers(120, 126, (3, rows, columns // 32), dtype=np.uint8)
            packed |= {p + "_blocks": blocks, p + "_scales": scales}
            codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(3, rows, columns // 32, 32)
            weights = E2M1[codes] * np.exp2(scales.astype(np.float32) - 127)[..., None]
            plain[p] = np.ascontiguousarray(weights.reshape(3, rows, columns).swapaxes(1, 2))
    a = write(tmp_path / "a", packed, **GPT_OSS, quantization_config={"quant_method": "mxfp4"})
    b = write(tmp_path / "b", plain, **GPT_OSS)
    first, second = ({t.name: t for t in plan_folder(f).tensors} for f in (a, b))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if "_exps.weight" in name:
            assert tensor.format == "MXFP4"
            assert tensor.shape == second[name].shape
        found, expected = (decode(t.format, t.make(), t.shape) for t in (tensor, second[name]))
        assert np.array_equal(found, expected), name
    write_plan(plan_gguf(a), tmp_path / "a.gguf")
    with LLM(tmp_path / "a.gguf", n_ctx=64) as one, LLM(b, n_ctx=64) as two:
        ids = list(range(40))
        assert np.corrcoef(one.forward(ids).ravel(), two.forward(ids).ravel())[0, 1] > 0.99
    with pytest.raises(FormatError, match="_scales"):
        plan_folder(write(tmp_path / "c", {k: v for k, v in packed.items() if not k.endswith("_scales")}, **GPT_OSS,
                          quantization_config={"quant_method": "mxfp4"}))  # fmt: skip


def test_a_fused_tensor_that_has_no_halves(tmp_path: Path) -> None:
    assert family_of_type("granitemoe") is not None
    weights = {k: v for k, v in llama_weights().items() if ".mlp." not in k}
    weights["model.layers.0.block_sparse_moe.input_linear.weight"] = np.zeros((2, 95, 64), np.float32)
    with pytest.raises(FormatError, match="cut in two"):
        plan_folder(write(tmp_path / "g", weights, model_type="granitemoe", num_local_experts=2, num_experts_per_tok=1))
