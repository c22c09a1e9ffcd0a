"""Importance matrices: what they hold, both file forms, resuming, merging; damaged files."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte import LLM, _core
from halfbyte.cli.main import main
from halfbyte.errors import FormatError, HalfbyteError
from halfbyte.quantize import Importance

TEXT = "The quick brown fox jumps over the lazy dog; it was not amused. " * 8


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def make(model: Path, text: Path, out: Path, *more: str) -> Importance:
    assert main(["imatrix", "-m", str(model), "-f", str(text), "-o", str(out), "-c", "64", *more]) == 0
    return Importance.load(out)


def test_sums_are_those_of_the_activations(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(n_layers=1)
    model = _core.Model.load(str(path))
    ids = list(range(40))
    collector = _core.ImportanceCollector(model, n_ctx=64)
    collector.add(ids)
    seen = collector.sums()
    # The first layer's input is the normalized embedding, the output matrix's the final hidden state.
    file = _core.GgufFile(str(path))
    x = file.tensor_f32("token_embd.weight")[ids]
    normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * file.tensor_f32("blk.0.attn_norm.weight")
    for name in ("attn_q", "attn_k", "attn_v"):
        squares, inputs, n_rows = seen[f"blk.0.{name}.weight"]
        assert n_rows == 40
        np.testing.assert_allclose(squares[0], (normed**2).sum(axis=0), rtol=1e-4)
        np.testing.assert_allclose(inputs[0], normed.sum(axis=0), rtol=1e-4, atol=1e-4)
    hidden = _core.Engine(model, n_ctx=64).forward(ids, output="hidden")
    np.testing.assert_allclose(seen["output.weight"][0][0], (hidden**2).sum(axis=0), rtol=2e-3)
    assert {n for n in seen if n.startswith("blk.0.")} == {
        t.name for t in file.tensors if t.name.startswith("blk.0.") and "norm" not in t.name
    }


def test_every_matrix_of_the_default_shape_is_seen(tiny_model: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    path = tiny_model()
    found = make(path, text, tmp_path / "i.gguf")
    matrices = {t.name for t in _core.GgufFile(str(path)).tensors if "norm" not in t.name} - {"token_embd.weight"}
    assert set(found.sums) == matrices
    assert found.n_chunks == len(TEXT) // 64
    assert all(count == 64 * found.n_chunks for (count,) in found.counts.values())
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.chunk_count"].contents() == found.n_chunks
    shapes = {t.name: t.shape.tolist() for t in reader.tensors}
    assert shapes["blk.1.ffn_down.weight.in_sum2"] == [96, 1]
    assert shapes["blk.1.ffn_down.weight.in_sum"] == [96, 1]
    assert shapes["blk.1.ffn_down.weight.counts"] == [1, 1]


def test_a_run_goes_on_where_it_stopped(tiny_model: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    model, whole, halves = tiny_model(), tmp_path / "whole.gguf", tmp_path / "halves.gguf"
    at_once = make(model, text, whole, "--chunks", "5")
    make(model, text, halves, "--chunks", "2")
    resumed = make(model, text, halves, "--chunks", "5")
    for name, sums in at_once.sums.items():
        np.testing.assert_allclose(resumed.sums[name], sums, rtol=1e-5)
        np.testing.assert_allclose(resumed.input_sums[name], at_once.input_sums[name], rtol=1e-4, atol=1e-3)
        assert resumed.counts[name] == at_once.counts[name]
    assert resumed.n_chunks == 5
    other = tmp_path / "other.txt"
    other.write_text(TEXT[10:])
    assert main(["imatrix", "-m", str(model), "-f", str(other), "-o", str(halves), "-c", "64"]) == 1


def test_merging_adds(tiny_model: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    one = make(tiny_model(), text, tmp_path / "1.gguf", "--chunks", "1")
    two = make(tiny_model(), text, tmp_path / "2.gguf", "--chunks", "2")
    files = ["--in-file", str(tmp_path / "1.gguf"), "--in-file", str(tmp_path / "2.gguf")]
    assert main(["imatrix", *files, "-o", str(tmp_path / "both.gguf")]) == 0
    both = Importance.load(tmp_path / "both.gguf")
    assert both.n_chunks == 3
    for name in both.sums:
        np.testing.assert_allclose(both.sums[name], one.sums[name] + two.sums[name], rtol=1e-6)
        assert both.counts[name] == one.counts[name] + two.counts[name]


def test_the_old_form_is_read(tmp_path: Path) -> None:
    values = np.arange(4, dtype=np.float32)
    name, dataset = b"blk.0.ffn_up.weight", b"text.txt"
    path = tmp_path / "old.dat"
    path.write_bytes(
        struct.pack("<i", 1) + struct.pack("<i", len(name)) + name + struct.pack("<ii", 2, 4) + values.tobytes()
        + struct.pack("<ii", 7, len(dataset)) + dataset
    )  # fmt: skip
    found = Importance.load(path)
    np.testing.assert_array_equal(found.means["blk.0.ffn_up.weight"], [values / 2])
    assert (found.n_chunks, found.datasets) == (7, ["text.txt"])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_damaged_files_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.dat"
    path.write_bytes(struct.pack("<i", 1) + data)
    with contextlib.suppress(HalfbyteError):
        Importance.load(path)


def test_importance_of_another_model_is_refused(
    tiny_model: Callable[..., Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tiny_model(n_embd=128, n_heads=4), text, tmp_path / "i.gguf")
    arguments = ["quantize", str(tiny_model()), str(tmp_path / "o.gguf"), "q4_0", "--imatrix", str(tmp_path / "i.gguf")]
    assert main(arguments) == 1
    assert "made with another model" in capsys.readouterr().err
    with pytest.raises(FormatError, match="no importance matrix"):
        Importance.load(tiny_model())


def test_importance_lowers_what_it_weighs(tiny_model: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    model = tiny_model(n_embd=256, n_ff=512)
    importance = make(model, text, tmp_path / "i.gguf")
    outs = {}
    for label, more in {"blind": [], "seeing": ["--imatrix", str(tmp_path / "i.gguf")]}.items():
        outs[label] = tmp_path / f"{label}.gguf"
        assert main(["quantize", str(model), str(outs[label]), "q3_k_s", "--pure", *more]) == 0
    file = _core.GgufFile(str(model))
    for name, means in importance.means.items():
        original = file.tensor_f32(name)
        errors = {
            label: float((means * (_core.GgufFile(str(out)).tensor_f32(name) - original) ** 2).sum())
            for label, out in outs.items()
        }
        assert errors["seeing"] < errors["blind"], name
    metadata = _core.GgufFile(str(outs["seeing"])).metadata
    assert metadata["quantize.imatrix.chunks_count"] == importance.n_chunks
    with LLM(outs["seeing"], n_ctx=64) as llm:
        assert np.isfinite(llm.forward([1, 2, 3])).all()


def test_a_target_is_met_and_spent(
    tiny_model: Callable[..., Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tiny_model(n_embd=256, n_ff=512), tmp_path / "out.gguf"
    make(model, text, tmp_path / "i.gguf")
    capsys.readouterr()
    imatrix = ["--imatrix", str(tmp_path / "i.gguf")]
    for bits in (3.0, 4.5, 6.0):
        assert main(["quantize", str(model), str(out), "--target-bpw", str(bits), "--json", *imatrix]) == 0
        found = json.loads(capsys.readouterr().out)
        assert bits - 0.35 < found["bits_per_weight"] <= bits
    assert main(["quantize", str(model), "--target-size", "10kB", "--dry-run"]) == 1
    assert "more than the target" in capsys.readouterr().err
    assert main(["quantize", str(model), "--target-size", "big", "--dry-run"]) == 1
    assert "is no size" in capsys.readouterr().err
    assert main(["quantize", str(model), "--target-bpw", "5", "--dry-run", "--output-type", "q8_0", "--json"]) == 0
    types = {t["name"]: t["to"] for t in json.loads(capsys.readouterr().out)["tensors"]}
    assert types["output.weight"] == "Q8_0"


def test_a_file_is_no_larger_than_its_target(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tiny_model(n_embd=256, n_ff=512), tmp_path / "out.gguf"
    whole = model.stat().st_size
    for target in (whole // 3, whole // 2, whole // 2 + 1):
        assert main(["quantize", str(model), str(out), "--target-size", str(target)]) == 0
        assert target - whole // 20 < out.stat().st_size <= target
        assert "Note" not in capsys.readouterr().err
    # Room for everything: nothing is changed.
    assert main(["quantize", str(model), "--target-size", "1TB", "--dry-run", "--json"]) == 0
    capsys.readouterr()
    assert main(["quantize", str(model), str(out), "--target-size", str(2 * whole)]) == 0
    assert [t.format for t in _core.GgufFile(str(out)).tensors] == [
        t.format for t in _core.GgufFile(str(model)).tensors
    ]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["--target-size", ""], "is no size"),
        (["--target-size", "1.2.3GB"], "is no size"),
        (["--target-size", "9" * 400], "is no size"),
        (["--target-size", "0"], "more than the target"),
        (["--target-bpw", "nan"], "impossible"),
        (["--target-bpw", "inf"], "impossible"),
        (["--target-bpw", "-1"], "impossible"),
        (["--target-bpw", "0.5"], "more than the target"),
    ],
)
def test_impossible_targets_are_refused(
    tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str], target: list[str], message: str
) -> None:
    assert main(["quantize", str(tiny_model()), "--dry-run", *target]) == 1
    assert message in capsys.readouterr().err
