"""Folders as people have them: tied heads, mixed types, padded vocabularies, odd rows, empty shards, missing tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from halfbyte import LLM, _core
from halfbyte.cli.main import main
from halfbyte.errors import FormatError, HalfbyteError
from halfbyte.quantize.mixes import fitting
from halfbyte.quantize.plan import BLOCK_WEIGHTS

from .folders import CONFIG, llama_weights, write_folder

IDS = [3, 200, 17, 99, 42, 5]


def logits(path: Path) -> np.ndarray:
    with LLM(path, n_ctx=64) as llm:
        return llm.forward(IDS)


def both_ways(folder: Path, out: Path) -> np.ndarray:
    """The logits of the folder, which are those of its GGUF file."""
    assert main(["convert", str(folder), str(out)]) == 0
    found = logits(folder)
    assert np.array_equal(found, logits(out))
    return found


def test_a_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    weights = llama_weights()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    stored = write_folder(tmp_path / "stored", weights, tie_word_embeddings=True)
    del weights["lm_head.weight"]
    left_out = write_folder(tmp_path / "left-out", weights, tie_word_embeddings=True)
    expected = both_ways(stored, tmp_path / "a.gguf")
    assert np.array_equal(both_ways(left_out, tmp_path / "b.gguf"), expected)
    names = {t.name for t in _core.GgufFile(str(tmp_path / "a.gguf")).tensors}
    assert "output.weight" not in names


def test_types_may_be_mixed(tmp_path: Path) -> None:
    weights = llama_weights()
    mixed = {
        name: w.astype(np.float16) if i % 3 == 0 else w.astype(np.float64) if i % 3 == 1 else w
        for i, (name, w) in enumerate(weights.items())
    }
    found = both_ways(write_folder(tmp_path / "mixed", mixed), tmp_path / "m.gguf")
    expected = logits(write_folder(tmp_path / "plain", weights))
    assert np.max(np.abs(found - expected)) < 0.01 * np.max(np.abs(expected))


def test_a_vocabulary_may_be_padded_but_not_cut(tmp_path: Path) -> None:
    longer = llama_weights(CONFIG | {"vocab_size": 320})
    assert both_ways(write_folder(tmp_path / "long", longer, vocab_size=320), tmp_path / "l.gguf").shape == (6, 320)
    shorter = llama_weights(CONFIG | {"vocab_size": 250})
    folder = write_folder(tmp_path / "short", shorter, vocab_size=250)
    with pytest.raises(HalfbyteError, match=r"250"):
        LLM(folder)
    assert main(["convert", str(folder), str(tmp_path / "s.gguf")]) == 1
    assert not (tmp_path / "s.gguf").exists()


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    weights = llama_weights()
    folder = write_folder(tmp_path / "m")
    expected = logits(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    safetensors.numpy.save_file({}, folder / "model-00002-of-00002.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert np.array_equal(logits(folder), expected)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="00001-of-00002"):
        LLM(folder)


@pytest.mark.parametrize("missing", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_missing_tensors_are_named(tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    weights = llama_weights()
    del weights[missing]
    folder, out = write_folder(tmp_path / "m", weights), tmp_path / "m.gguf"
    ours = {"up_proj": "blk.1.ffn_up", "norm": "output_norm"}[missing.split(".")[-2]]
    with pytest.raises(HalfbyteError, match=ours.replace(".", r"\.")):
        LLM(folder)
    assert main(["convert", str(folder), str(out)]) == 1
    assert ours in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("wanted", "n_cols", "expected"),
    [
        ("Q4_K", 576, "Q5_0"),
        ("Q6_K", 576, "Q8_0"),
        ("IQ2_XS", 96, "IQ4_NL"),
        ("Q2_K", 80, "F16"),
        ("Q4_K", 512, "Q4_K"),
    ],
)
def test_rows_of_no_whole_blocks_take_what_llama_cpp_takes(wanted: str, n_cols: int, expected: str) -> None:
    assert fitting(wanted, n_cols, BLOCK_WEIGHTS) == expected
