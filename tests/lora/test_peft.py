"""Adapters that the peft library makes: its logits are ours, for architectures of every MLP and attention layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM

from ..convert.folders import write_tokenizer
from ..model.families import FAMILIES, make_model

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("family", "targets", "options"),
    [
        ("llama", LLAMA, {}),
        ("llama3-rope", ["q_proj", "v_proj"], {"use_rslora": True}),
        ("qwen3", LLAMA, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}}),
        ("gemma2", LLAMA, {}),
        ("phi3", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], {}),
        ("phi2", ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"], {}),
        ("gptneox", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"], {}),
        ("gpt2", ["c_attn", "c_proj", "c_fc"], {"fan_in_fan_out": True}),
    ],
)
def test_logits_of_peft(family: str, targets: list[str], options: dict[str, Any], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'halfbyte[parity]'")
    import dataclasses

    made = dataclasses.replace(FAMILIES[family], arguments=FAMILIES[family].arguments | {"vocab_size": 264})
    model = make_model(made)
    model.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM", **options)
    tuned = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    tuned.save_pretrained(tmp_path / "adapter")
    ids = np.random.default_rng(5).integers(3, 160, 40).tolist()
    with torch.no_grad():
        expected = tuned.eval()(torch.tensor([ids])).logits[0].numpy()
    with LLM(tmp_path / "model", n_ctx=64, kv_type="f32") as llm:
        plain = llm.forward(ids)
        llm.adapters.load(tmp_path / "adapter")
        found = llm.forward(ids, lora="adapter")
    scale = np.max(np.abs(expected))
    assert np.max(np.abs(found - expected)) <= 2e-4 * scale
    assert np.max(np.abs(plain - expected)) > 1e-2 * scale
