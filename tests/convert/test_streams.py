"""What is done to a folder's tensors that are gathered before they find their places: stacks of the streams' matrices, the
second embedding's rows, keys and values that nobody reads; and what a model holds beside what speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte.cli.main import main
from halfbyte.convert.gemma3n import GEMMA3N
from halfbyte.convert.hyperparameters import config_of, hyperparameters
from halfbyte.convert.tensors import Planned, Weight
from halfbyte.errors import FormatError

from .folders import llama_weights, write_folder

CONFIG = {
    "num_hidden_layers": 3, "num_kv_shared_layers": 1, "vocab_size": 12, "hidden_size": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 8, "max_position_embeddings": 64,
}  # fmt: skip
PREFIX = "model.language_model."


def weight(shape: tuple[int, ...], seed: int) -> Weight:
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Weight("F32", shape, lambda: array)


def checkpoint() -> dict[str, Weight]:
    stacks = {f"{PREFIX}altup_{k}projections.{i}.weight": weight((4, 4), i) for i in range(3) for k in ("", "unembed_")}
    own = {f"{PREFIX}layers.{i}.self_attn.{s}.weight": weight((2, 4), i) for i in (0, 1) for s in ("k_proj", "v_proj")}
    return stacks | own | {
        f"{PREFIX}embed_tokens_per_layer.weight": weight((10, 6), 7),
        f"{PREFIX}layers.1.altup.correct_output_scale": weight((4,), 8),
    }  # fmt: skip


def gathered(weights: dict[str, Weight], config: dict[str, Any] = CONFIG) -> dict[str, np.ndarray]:
    assert GEMMA3N.gather is not None
    return {name: w.read().reshape(w.shape) for name, w in GEMMA3N.gather(weights, config).items()}


def test_matrices_of_streams_are_stacks_in_their_order() -> None:
    weights = checkpoint()
    shuffled = dict(sorted(weights.items(), key=lambda item: item[0][::-1], reverse=True))
    for name in ("altup_projections", "altup_unembed_projections"):
        expected = np.stack([weights[f"{PREFIX}{name}.{i}.weight"].read() for i in range(3)])
        assert np.array_equal(gathered(shuffled)[f"{PREFIX}{name}.weight"], expected)
    del weights[f"{PREFIX}altup_projections.1.weight"]
    with pytest.raises(FormatError, match="not numbered from 0"):
        gathered(weights)


def test_tokens_past_the_second_embedding_have_its_first_row() -> None:
    name = f"{PREFIX}embed_tokens_per_layer.weight"
    rows = checkpoint()[name].read()
    found = gathered(checkpoint())[name]
    assert np.array_equal(found, np.concatenate([rows, rows[:1], rows[:1]]))
    assert np.array_equal(gathered(checkpoint(), CONFIG | {"vocab_size": 10})[name], rows)


def test_keys_and_values_that_nobody_reads_are_kept_or_nothing() -> None:
    weights = checkpoint()
    name = f"{PREFIX}layers.2.self_attn.k_proj.weight"
    assert not gathered(weights)[name].any()
    weights[name] = weight((2, 4), 9)
    assert np.array_equal(gathered(weights)[name], weights[name].read())
    assert name.replace(".2.", ".1.") in gathered(weights, CONFIG | {"num_kv_shared_layers": 0})
    for n_shared in (3, 4, -1, "1", None):
        with pytest.raises(FormatError):
            gathered(weights, CONFIG | {"num_kv_shared_layers": n_shared})


def test_what_is_gathered_is_scattered_again() -> None:
    weights = checkpoint()
    assert GEMMA3N.scatter is not None
    stacked = [
        Planned(n.replace("language_model.", ""), "F32", a.shape, lambda a=a: a) for n, a in gathered(weights).items()
    ]
    found = {t.name: t.make().reshape(t.shape) for t in GEMMA3N.scatter(stacked)}
    for name, w in weights.items():
        if "per_layer" not in name:
            assert np.array_equal(found[name.replace("language_model.", "")], w.read()), name


def test_sparse_gates_are_told_in_deviations() -> None:
    there = hyperparameters(GEMMA3N, CONFIG | {"activation_sparsity_pattern": [0.95, 0.5, 0.0]})
    assert np.allclose(there["gemma3n.activation_sparsity_scale"], [1.6448536, 0.0, -np.inf])
    back = config_of(GEMMA3N, there, tied=True)
    assert back["activation_sparsity_pattern"] == [0.95, 0.5, 0.0]
    usual = hyperparameters(GEMMA3N, CONFIG | {"num_hidden_layers": 30})["gemma3n.activation_sparsity_scale"]
    assert np.allclose(usual, [1.6448536] * 10 + [-np.inf] * 20)
    for wrong in ([0.95], [0.1, 0.2, 1.0], [-0.1, 0.0, 0.0]):
        with pytest.raises(FormatError):
            hyperparameters(GEMMA3N, CONFIG | {"activation_sparsity_pattern": wrong})


def test_what_sees_or_hears_is_left_out_with_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = {
        f"model.{n}.weight": np.ones((2, 2), np.float32) for n in ("vision_tower.a", "vision_tower.b", "audio_tower.c")
    }
    folder = write_folder(tmp_path / "model", llama_weights() | extra)
    assert main(["convert", str(folder), str(tmp_path / "out.gguf")]) == 0
    assert capsys.readouterr().err.strip() == "Note: what sees or hears is left out (audio_tower, vision_tower)."
    folder = write_folder(tmp_path / "plain")
    assert main(["convert", str(folder), str(tmp_path / "plain.gguf")]) == 0
    assert "Note" not in capsys.readouterr().err
