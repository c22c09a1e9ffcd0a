"""Mixes against llama.cpp's choices, the quantize command, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from halfbyte import LLM, _core
from halfbyte.cli.main import main
from halfbyte.quantize import MIXES, plan_quantization
from halfbyte.quantize.plan import overrides_of

# Shape -> mix -> role -> llama.cpp's format, or formats by layer (llama_model_quantize of 2026-10, dry run).
REFERENCE = json.loads((Path(__file__).parent / "reference_mixes.json").read_text())


def by_role(source: Any, mix: str) -> dict[str, str]:
    layers: dict[str, dict[int, str]] = {}
    for choice in plan_quantization(source, mix).choices:
        layer = re.match(r"blk\.(\d+)\.", choice.name)
        role = re.sub(r"blk\.\d+\.", "", choice.name).removesuffix(".weight")
        layers.setdefault(role, {})[int(layer.group(1)) if layer else 0] = choice.format
    out = {}
    for role, formats in layers.items():
        in_order = [formats[i] for i in sorted(formats)]
        out[role] = in_order[0] if len(set(in_order)) == 1 else " ".join(in_order)
    return {role: formats for role, formats in out.items() if "norm" not in role}


@pytest.mark.parametrize("shape", list(REFERENCE))
@pytest.mark.parametrize("mix", [m for m in MIXES if m != "F32"])
def test_mixes_are_llama_cpps(shape: str, mix: str, tiny_model: Callable[..., Path]) -> None:
    source = _core.GgufFile(str(tiny_model(**REFERENCE[shape]["options"])))
    assert by_role(source, mix) == REFERENCE[shape]["mixes"][mix]


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(n_embd=256, n_ff=512, n_layers=4)


@pytest.mark.parametrize("mix", list(MIXES))
def test_every_type_is_written_and_runs(mix: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(model), str(out), mix.lower()]) == 0
    plan = plan_quantization(_core.GgufFile(str(model)), mix)
    reader = gguf.GGUFReader(out)
    assert {t.name: t.tensor_type.name for t in reader.tensors} == {c.name: c.format for c in plan.choices}
    assert reader.fields["general.file_type"].contents() == MIXES[mix].file_type
    assert reader.fields["general.quantization_version"].contents() == 2
    for tensor in reader.tensors:  # as an independent reader decodes it
        decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(-1)
        original = _core.GgufFile(str(model)).tensor_f32(tensor.name).reshape(-1)
        assert np.mean((decoded - original) ** 2) <= 0.35 * np.mean(original**2)
    with LLM(out, n_ctx=64) as llm:
        assert np.isfinite(llm.forward([1, 2, 3])).all()


def test_exceptions(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["quantize", str(model), "q4_0", "--dry-run", "--json", "--tensor-type", r"blk\.0\..*down=q8_0"]
    assert main([*arguments, "--output-type", "f16", "--embedding-type", "q5_1"]) == 0
    types = {t["name"]: t["to"] for t in json.loads(capsys.readouterr().out)["tensors"]}
    assert types["blk.0.ffn_down.weight"] == "Q8_0"
    assert types["blk.1.ffn_down.weight"] == "Q4_0"
    assert (types["output.weight"], types["token_embd.weight"]) == ("F16", "Q5_1")
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert main(["quantize", str(model), "q3_k_l", "--dry-run", "--json", "--pure"]) == 0
    types = {t["name"]: t["to"] for t in json.loads(capsys.readouterr().out)["tensors"]}
    assert set(types.values()) == {"Q3_K", "F32"}
    assert list(tmp_path.iterdir()) == []


def test_quantized_models_need_leave(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    assert main(["quantize", str(model), str(first), "q8_0"]) == 0
    assert main(["quantize", str(first), str(second), "q4_0"]) == 1
    assert "--allow-requantize" in capsys.readouterr().err
    assert not second.exists()
    assert main(["quantize", str(first), str(second), "q4_0", "--allow-requantize"]) == 0
    assert main(["quantize", str(first), str(first), "q8_0"]) == 1
    assert "is the input" in capsys.readouterr().err


def test_bad_arguments_are_explained(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in [
        (["out.gguf", "q4_x"], 'no file type "q4_x"'),
        (["q4_0"], "IN OUT TYPE"),
        (["out.gguf", "q4_0", "--tensor-type", "down"], "PATTERN=TYPE"),
        (["out.gguf", "q4_0", "--tensor-type", "(=q8_0"], "no regular expression"),
        (["out.gguf", "q4_0", "--output-type", "q8_k"], 'no type "q8_k"'),
    ]:
        assert main(["quantize", str(model), *arguments]) == 1
        assert expected in capsys.readouterr().err


def test_damaged_weights_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _core.GgufFile(str(model))
    tensors = [(t.name, t.format, list(t.shape), source.tensor_data(t.name).copy()) for t in source.tensors]
    at = next(i for i, t in enumerate(tensors) if t[0] == "blk.2.ffn_up.weight")
    tensors[at][3].view(np.float32)[256 * 3 + 5] = np.nan
    broken, out = tmp_path / "broken.gguf", tmp_path / "out.gguf"
    _core.write_gguf(str(broken), source.metadata, tensors)
    assert main(["quantize", str(broken), str(out), "q4_0"]) == 1
    assert "Tensor blk.2.ffn_up.weight: The weight in row 3, column 5 is nan" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["broken.gguf"]


def test_first_matching_override_counts() -> None:
    overrides = overrides_of(["a=b=q8_0", "x=q4_0"])
    assert [(p.pattern, f) for p, f in overrides] == [("a=b", "Q8_0"), ("x", "Q4_0")]
