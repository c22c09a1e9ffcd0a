"""Quantized checkpoints, packed here by the published rules: decoded to what the rules say, repacked without loss where
a block format holds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from halfbyte import LLM, _core
from halfbyte.convert import plan_folder
from halfbyte.convert.plan import decoded
from halfbyte.convert.quantized import weights_of
from halfbyte.convert.tensors import FLOAT8
from halfbyte.errors import FormatError, UnsupportedError

from .folders import CONFIG, llama_weights, write_folder

Pack = Callable[[str, np.ndarray, np.random.Generator], tuple[dict[str, np.ndarray], np.ndarray]]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IDS = [3, 200, 17, 99, 42, 5]


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """(n, codes) -> (n, words): a little-endian stream of bits."""
    every = (codes[..., None] >> np.arange(bits)) & 1
    return np.packbits(every.reshape(len(codes), -1).astype(np.uint8), axis=1, bitorder="little").view(np.int32)


def quantize(w: np.ndarray, bits: int, group: int, symmetric: bool, order: np.ndarray | None = None) -> Any:
    """(codes (rows, columns), scales (rows, groups) f16, zeros (rows, groups), what they stand for)."""
    rows, columns = w.shape
    index = np.arange(columns) // group if order is None else order
    n_groups, top = -(-columns // group), (1 << bits) - 1
    scales, zeros = np.zeros((rows, n_groups), np.float16), np.zeros((rows, n_groups), int)
    for g in range(n_groups):
        part = w[:, index == g]
        if symmetric:
            scales[:, g] = np.abs(part).max(1) / (top // 2)
            zeros[:, g] = (top + 1) // 2
        else:
            scales[:, g] = (part.max(1) - part.min(1)) / top
            zeros[:, g] = np.clip(np.round(-part.min(1) / scales[:, g].astype(np.float32)), 1, top)
    s, z = scales.astype(np.float32)[:, index], zeros[:, index]
    codes = np.clip(np.round(w / s) + z, 0, top).astype(np.int64)
    return codes, scales, zeros, (s * (codes - z)).astype(np.float32)


def gptq(
    bits: int, group: int, symmetric: bool, *, act_order: bool = False, version: int = 1
) -> tuple[dict[str, Any], Pack]:
    def pack(stem: str, w: np.ndarray, draw: np.random.Generator) -> Any:
        columns = w.shape[1]
        size = columns if group < 0 else group
        order = draw.permutation(np.arange(columns) // size) if act_order else None
        codes, scales, zeros, means = quantize(w, bits, size, symmetric, order)
        stored = {
            f"{stem}.qweight": stream(codes, bits).T,
            f"{stem}.qzeros": stream((zeros - (version == 1)).T, bits),
            f"{stem}.scales": scales.T,
            f"{stem}.g_idx": (np.arange(columns) // size if order is None else order).astype(np.int32),
        }
        return {k: np.ascontiguousarray(v) for k, v in stored.items()}, means

    form = "gptq_v2" if version == 2 else "gptq"
    return {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "checkpoint_format": form,
        "desc_act": act_order,
    }, pack


def awq(group: int) -> tuple[dict[str, Any], Pack]:
    def words(codes: np.ndarray) -> np.ndarray:
        in_order = codes.reshape(len(codes), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        return stream(in_order.reshape(len(codes), -1), 4)

    def pack(stem: str, w: np.ndarray, draw: np.random.Generator) -> Any:
        codes, scales, zeros, means = quantize(w, 4, group, False)
        stored = {f"{stem}.qweight": words(codes.T), f"{stem}.qzeros": words(zeros.T), f"{stem}.scales": scales.T}
        return {k: np.ascontiguousarray(v) for k, v in stored.items()}, means

    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}, pack


def compressed(bits: int, group: int, symmetric: bool, packed: bool) -> tuple[dict[str, Any], Pack]:
    def pack(stem: str, w: np.ndarray, draw: np.random.Generator) -> Any:
        codes, scales, zeros, means = quantize(w, bits, group or w.shape[1], symmetric)
        center = 1 << (bits - 1)
        stored = {f"{stem}.weight_scale": scales}
        if packed:
            stored[f"{stem}.weight_packed"] = stream(codes, bits)
            stored[f"{stem}.weight_shape"] = np.array(w.shape, np.int64)
            if not symmetric:
                stored[f"{stem}.weight_zero_point"] = np.ascontiguousarray(stream(zeros.T, bits).T)
        else:
            stored[f"{stem}.weight"] = (codes - center).astype(np.int8)
            if not symmetric:
                stored[f"{stem}.weight_zero_point"] = (zeros - center).astype(np.int8)
        return stored, means

    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": group or None,
               "strategy": "group" if group else "channel"}  # fmt: skip
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups}, pack


def nearest(table: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.abs(x[..., None] - table).argmin(-1)


NF4 = np.array(
    [-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302,
     0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0], np.float32,
)  # fmt: skip


def nf4(nested: bool) -> tuple[dict[str, Any], Pack]:
    def pack(stem: str, w: np.ndarray, draw: np.random.Generator) -> Any:
        name, blocks = f"{stem}.weight", w.reshape(-1, 64)
        absmax = np.abs(blocks).max(1)
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(w.shape)}
        stored: dict[str, np.ndarray] = {f"{name}.absmax": absmax, f"{name}.quant_map": NF4}
        if nested:
            table, offset = np.linspace(-1, 1, 256).astype(np.float32), float(absmax.mean())
            outer = np.abs(absmax - offset).max(keepdims=True)
            inner = nearest(table, (absmax - offset) / outer).astype(np.uint8)
            absmax = table[inner] * outer + np.float32(offset)
            stored |= {f"{name}.absmax": inner, f"{name}.nested_absmax": outer, f"{name}.nested_quant_map": table}
            state |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
        codes = nearest(NF4, blocks / absmax[:, None]).reshape(-1)
        stored[name] = (codes[::2] << 4 | codes[1::2]).astype(np.uint8).reshape(-1, 1)
        stored[f"{name}.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
        return stored, (NF4[codes].reshape(-1, 64) * absmax[:, None]).reshape(w.shape)

    return {"quant_method": "bitsandbytes", "load_in_4bit": True}, pack


def int8() -> tuple[dict[str, Any], Pack]:
    def pack(stem: str, w: np.ndarray, draw: np.random.Generator) -> Any:
        largest = np.abs(w).max(1)
        codes = np.round(w / largest[:, None] * 127).astype(np.int8)
        stored = {f"{stem}.weight": codes, f"{stem}.SCB": largest, f"{stem}.weight_format": np.array(0, np.uint8)}
        return stored, codes * largest[:, None] / np.float32(127)

    return {"quant_method": "bitsandbytes", "load_in_8bit": True}, pack


CASES: dict[str, tuple[tuple[dict[str, Any], Pack], str, float]] = {
    # name: how it is packed, the format it becomes, the largest error against the rule's meaning (of the largest weight)
    "gptq-4bit-sym-32": (gptq(4, 32, True), "Q4_0", 0),
    "gptq-4bit-sym-channel": (gptq(4, -1, True), "Q4_0", 0),
    "gptq-4bit-asym-32": (gptq(4, 32, False), "Q4_1", 1e-3),
    "gptq-v2-4bit-asym-32": (gptq(4, 32, False, version=2), "Q4_1", 1e-3),
    "gptq-4bit-act-order": (gptq(4, 32, True, act_order=True), "Q8_0", 8e-3),
    "gptq-3bit-sym-32": (gptq(3, 32, True), "Q4_0", 0),
    "gptq-2bit-asym-32": (gptq(2, 32, False), "Q4_1", 1e-3),
    "gptq-8bit-sym-32": (gptq(8, 32, True), "Q8_0", 0),
    "gptq-8bit-asym-32": (gptq(8, 32, False, version=2), "BF16", 4e-3),
    "gptq-4bit-groups-of-16": (gptq(4, 16, True), "Q8_0", 8e-3),
    "awq-32": (awq(32), "Q4_1", 1e-3),
    "compressed-int4-sym": (compressed(4, 32, True, True), "Q4_0", 0),
    "compressed-int4-asym": (compressed(4, 32, False, True), "Q4_1", 1e-3),
    "compressed-int8-packed": (compressed(8, 0, True, True), "Q8_0", 0),
    "compressed-int8": (compressed(8, 0, True, False), "Q8_0", 0),
    "compressed-int8-asym": (compressed(8, 32, False, False), "BF16", 4e-3),
    "nf4": (nf4(False), "Q8_0", 8e-3),
    "nf4-double": (nf4(True), "Q8_0", 8e-3),
    "int8": (int8(), "Q8_0", 1e-3),
}


def checkpoint(path: Path, settings: dict[str, Any], pack: Pack) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder whose linear layers are packed, and the weights that its tensors stand for."""
    draw, stored, meant = np.random.default_rng(1), {}, {}
    for name, w in llama_weights().items():
        stem = name.removesuffix(".weight")
        if stem.endswith(LINEAR):
            packed, meant[name] = pack(stem, w, draw)
            stored |= packed
        else:
            stored[name] = meant[name] = w
    return write_folder(path, stored, quantization_config=settings), meant


@pytest.mark.parametrize("case", list(CASES))
def test_a_packed_checkpoint_means_what_its_rules_say(case: str, tmp_path: Path) -> None:
    (settings, pack), form, bound = CASES[case]
    folder, meant = checkpoint(tmp_path / "packed", settings, pack)
    reference = write_folder(tmp_path / "plain", meant)
    plain = {t.name: decoded(t) for t in plan_folder(reference).tensors}
    planned = {t.name: t for t in plan_folder(folder).tensors}
    assert planned.keys() == plain.keys()
    for name, expected in plain.items():
        is_packed = name.startswith("blk.") and "norm" not in name
        assert planned[name].format == (form if is_packed else "F32"), name
        error = np.max(np.abs(decoded(planned[name]) - expected)) / np.max(np.abs(expected))
        assert error <= bound, f"{name}: {error}"
        assert not (error > 0 and not planned[name].note), "a loss that is not told"


@pytest.mark.parametrize("case", ["gptq-4bit-sym-32", "awq-32", "nf4-double"])
def test_it_runs_and_converts(case: str, tmp_path: Path) -> None:
    from halfbyte.cli.main import main

    (settings, pack), form, _ = CASES[case]
    folder, meant = checkpoint(tmp_path / "packed", settings, pack)
    with LLM(write_folder(tmp_path / "plain", meant), n_ctx=64) as llm:
        expected = llm.forward(IDS)
    assert main(["convert", str(folder), str(tmp_path / "out.gguf")]) == 0
    assert form in {t.format for t in _core.GgufFile(str(tmp_path / "out.gguf")).tensors}
    for path in (folder, tmp_path / "out.gguf"):
        with LLM(path, n_ctx=64) as llm:
            assert np.max(np.abs(llm.forward(IDS) - expected)) < 0.1 * np.max(np.abs(expected))


@pytest.mark.parametrize("kind", ["block", "tensor", "row"])
def test_fp8(kind: str, tmp_path: Path) -> None:
    """safetensors' numpy door knows no float8: the file is written by hand."""
    table = FLOAT8["F8_E4M3"]
    draw = np.random.default_rng(2)
    header: dict[str, Any] = {}
    data = bytearray()

    def add(name: str, dtype: str, array: np.ndarray) -> None:
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data.extend(array.tobytes())

    meant = {}
    for name, w in llama_weights().items():
        if not name.removesuffix(".weight").endswith(LINEAR):
            add(name, "F32", w)
            meant[name] = w
            continue
        codes = draw.integers(0, 127, w.shape).astype(np.uint8) | (draw.integers(0, 2, w.shape).astype(np.uint8) << 7)
        codes = np.where((codes & 127) == 127, 0, codes).astype(np.uint8)
        grid = {"block": (-(-w.shape[0] // 32), -(-w.shape[1] // 16)), "tensor": (1,), "row": (w.shape[0], 1)}[kind]
        scale = (0.001 * (1 + draw.random(grid))).astype(np.float32)
        add(name, "F8_E4M3", codes)
        add(name + ("_scale_inv" if kind == "block" else "_scale"), "F32", scale)
        spread = scale.repeat(32, 0).repeat(16, 1)[: w.shape[0], : w.shape[1]] if kind == "block" else scale
        meant[name] = table[codes] * spread
    settings = {"quant_method": "fp8", "weight_block_size": [32, 16]}
    folder = write_folder(tmp_path / "fp8", quantization_config=settings)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    plain = {t.name: decoded(t) for t in plan_folder(write_folder(tmp_path / "plain", meant)).tensors}
    for tensor in plan_folder(folder).tensors:
        assert np.allclose(decoded(tensor), plain[tensor.name], rtol=2**-8, atol=0), tensor.name


def test_float8_tables_are_those_of_their_specification() -> None:
    e4m3, e5m2 = FLOAT8["F8_E4M3"], FLOAT8["F8_E5M2"]
    assert (e4m3[0x7E], e4m3[0x01], e4m3[0x38], e4m3[0xB8]) == (448, 2**-9, 1, -1)
    assert np.isnan(e4m3[[0x7F, 0xFF]]).all()
    assert (e5m2[0x7B], e5m2[0x01], e5m2[0x3C]) == (57344, 2**-16, 1)
    assert np.isinf(e5m2[0x7C])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"bits": 5}, FormatError, "bits is 5"),
        ({"bits": 8}, FormatError, "scales is"),
        ({"group_size": 16}, FormatError, "scales is"),
        ({"quant_method": "exl9"}, UnsupportedError, "exl9"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], error: type[Exception], says: str, tmp_path: Path) -> None:
    settings, pack = CASES["gptq-4bit-sym-32"][0]
    folder, _ = checkpoint(tmp_path / "m", settings | change, pack)
    with pytest.raises(error, match=says):
        LLM(folder)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    settings, pack = CASES["gptq-4bit-sym-32"][0]
    folder, _ = checkpoint(tmp_path / "m", settings, pack)
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.scales"]
    with pytest.raises(FormatError, match=r"up_proj\.scales is missing"):
        LLM(write_folder(tmp_path / "n", weights, quantization_config=settings))
    weights["model.layers.0.mlp.up_proj.scales"] = np.zeros((2, 96), np.float16)
    weights["model.layers.0.mlp.up_proj.g_idx"] = np.full(64, 7, np.int32)
    with pytest.raises(FormatError, match="groups that are not there"):
        LLM(write_folder(tmp_path / "o", weights, quantization_config=settings))


def test_weights_of_leaves_plain_tensors_alone(tmp_path: Path) -> None:
    from halfbyte.convert.checkpoint import Checkpoint

    weights = weights_of(Checkpoint(write_folder(tmp_path / "m", **CONFIG)))
    assert {w.format for w in weights.values()} == {"F32"}
