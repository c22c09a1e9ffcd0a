"""Packed weights that their own libraries write on a CPU: read back as those libraries read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halfbyte.convert.quantized import bitsandbytes, compressed
from halfbyte.convert.tensors import Stored

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def stored(tensor: Any) -> Stored:
    array = np.ascontiguousarray(tensor.detach().numpy())
    names = {"float32": "F32", "float16": "F16", "uint8": "U8", "int8": "I8", "int32": "I32", "int64": "I64"}
    return Stored(names[str(array.dtype)], array.shape, lambda: array.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_four_bits(kind: str, nested: bool) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")
    library = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'halfbyte[parity]'")
    torch.manual_seed(1)
    packed, state = library.functional.quantize_4bit(
        torch.randn(64, 128), quant_type=kind, compress_statistics=nested, blocksize=64
    )
    expected = library.functional.dequantize_4bit(packed, state).numpy()
    parts = {f"x.weight.{name}": stored(t) for name, t in state.as_dict(packed=True).items()}
    (weight,) = bitsandbytes.read({"x.weight": stored(packed), **parts}, {}).values()
    assert np.max(np.abs(weight.f32() - expected)) <= np.max(np.abs(expected)) / 127


@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors_packing(bits: int) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")
    library = pytest.importorskip(
        "compressed_tensors.compressors.pack_quantized.helpers",
        reason="needs compressed-tensors: pip install 'halfbyte[parity]'",
    )
    torch.manual_seed(1)
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (64, 96), dtype=torch.int8)
    scales = (torch.rand(64, 3) + 0.5).half()
    tensors = {
        "x.weight_packed": stored(library.pack_to_int32(codes, bits)),
        "x.weight_scale": stored(scales),
        "x.weight_shape": stored(torch.tensor([64, 96])),
    }
    scheme = {
        "weights": {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 32},
        "targets": ["Linear"],
    }
    (weight,) = compressed.read(tensors, {"config_groups": {"group_0": scheme}}).values()
    expected = codes.float() * scales.float().repeat_interleave(32, dim=1)
    assert np.array_equal(weight.f32(), expected.numpy())
