"""Folders that transformers writes: the same logits from the folder, and from the GGUF file made of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from halfbyte import LLM, _core
from halfbyte.cli.main import main
from halfbyte.convert import plan_folder
from halfbyte.convert.to_folder import plan_hf, write_folder
from halfbyte.convert.to_gguf import plan_gguf, write_plan

from ..model.families import FAMILIES, make_model, save_folder, write_gguf
from .folders import write_tokenizer

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _torch() -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")


@pytest.mark.parametrize("name", list(FAMILIES))
def test_folder_and_gguf_give_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    import torch

    model = make_model(FAMILIES[name])
    save_folder(model, FAMILIES[name], tmp_path)
    plan = plan_folder(tmp_path)
    assert plan.family.arch == FAMILIES[name].arch
    rows = [tensor.as_row() for tensor in plan.tensors]
    ids = np.random.default_rng(5).integers(3, 160, 50).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    _core.write_gguf(str(tmp_path / "out.gguf"), plan.metadata, rows)
    models = (
        _core.Model.assemble(str(tmp_path), plan.metadata, rows),
        _core.Model.load(str(tmp_path / "out.gguf")),
    )
    for loaded in models:
        found = _core.Engine(loaded, n_ctx=120, k_type="f32", v_type="f32", n_batch=64).forward(ids)
        assert np.max(np.abs(found - expected)) <= 1e-4 * np.max(np.abs(expected))


@pytest.mark.parametrize("name", [n for n in FAMILIES if "longrope" not in n])
def test_transformers_reads_the_folder_made_of_a_gguf_file(name: str, tmp_path: Path) -> None:
    import torch
    import transformers

    arguments = dict(FAMILIES[name].arguments)
    if "text_config" in arguments:
        arguments["text_config"] = arguments["text_config"] | {"vocab_size": 264}
    else:
        arguments |= {key: 264 for key in arguments if key.startswith("vocab_size")}
    model = make_model(dataclasses.replace(FAMILIES[name], arguments=arguments))
    source = tmp_path / "source"
    save_folder(model, FAMILIES[name], source)
    write_tokenizer(source)
    write_plan(plan_gguf(source), tmp_path / "there.gguf")
    write_folder(plan_hf(tmp_path / "there.gguf"), tmp_path / "back")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager")
    ids = torch.tensor([np.random.default_rng(5).integers(3, 160, 50).tolist()])
    with torch.no_grad():
        expected, found = model(ids).logits[0].numpy(), again(ids).logits[0].numpy()
    assert np.max(np.abs(found - expected)) <= 1e-4 * np.max(np.abs(expected))
    # Of a quantized file: what its blocks decode to, and nothing else.
    assert main(["quantize", str(tmp_path / "there.gguf"), str(tmp_path / "small.gguf"), "q8_0"]) == 0
    assert main(["convert", str(tmp_path / "small.gguf"), str(tmp_path / "unpacked"), "--type", "f32"]) == 0
    small, unpacked = _core.GgufFile(str(tmp_path / "small.gguf")), plan_folder(tmp_path / "unpacked")
    if unpacked.family.arch == small.metadata["general.architecture"]:
        rows = {tensor.name: tensor.make() for tensor in unpacked.tensors}
        for tensor in small.tensors:
            assert np.allclose(rows[tensor.name], small.tensor_f32(tensor.name), rtol=1e-5, atol=1e-7), tensor.name
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "unpacked", attn_implementation="eager")
    with LLM(tmp_path / "unpacked", n_ctx=64, kv_type="f32") as llm, torch.no_grad():
        expected, found = again(ids).logits[0].numpy(), llm.forward(ids[0].tolist())
    assert np.max(np.abs(found - expected)) <= 1e-4 * np.max(np.abs(expected))


def made(folder: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.make() for tensor in plan_folder(folder).tensors}


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if "expert_count" in f.metadata])
def test_experts_are_found_as_published_and_as_transformers_keeps_them(name: str, tmp_path: Path) -> None:
    model = make_model(FAMILIES[name])
    model.save_pretrained(tmp_path / "published")
    model.save_pretrained(tmp_path / "kept", save_original_format=False)
    assert same(made(tmp_path / "published"), made(tmp_path / "kept"))


@pytest.mark.parametrize("name", ["gpt2", "llama-tied-bias", "command-r"])
def test_a_model_saved_without_its_head_is_found(name: str, tmp_path: Path) -> None:
    model = make_model(FAMILIES[name])
    model.save_pretrained(tmp_path / "whole")
    model.base_model.save_pretrained(tmp_path / "headless")
    assert same(made(tmp_path / "whole"), made(tmp_path / "headless"))


def test_latent_attention_comes_back_from_files_that_hold_it_apart(tmp_path: Path) -> None:
    model = make_model(FAMILIES["deepseek3"])
    write_gguf(model, FAMILIES["deepseek3"], tmp_path / "apart.gguf")
    plan = plan_hf(tmp_path / "apart.gguf")
    back = {tensor.name: tensor.make() for tensor in plan.tensors}
    for name, weight in model.state_dict().items():
        if "kv_b_proj" in name:
            assert np.array_equal(back[name], weight.numpy())
    for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "num_key_value_heads"):
        assert plan.metadata[key] == getattr(model.config, key)
