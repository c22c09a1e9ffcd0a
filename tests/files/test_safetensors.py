"""The safetensors reader: agrees with the library, and refuses whatever it would have to believe."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte import _core
from halfbyte.errors import FormatError, HalfbyteError, UnsupportedError


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def read(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    return _core.SafetensorsFile(str(path))


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {
        "a.weight": draw.normal(size=(3, 5)).astype(np.float32),
        "half": draw.normal(size=(7,)).astype(np.float16),
        "packed": draw.integers(-(1 << 31), 1 << 31, (2, 2)).astype(np.int32),
        "scalar": np.array(3.0),
        "none": np.zeros((0, 4), np.uint8),
        'ünïcode "quoted" \\ \n': np.arange(6, dtype=np.int64),
    }
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    file = _core.SafetensorsFile(str(path))
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == set(arrays)
    for name, array in arrays.items():
        assert file.tensors[name][1] == array.shape
        view = file.tensor_data(name)
        assert view.tobytes() == array.tobytes()
        assert not view.flags.writeable


def test_a_view_outlives_the_file_object(tmp_path: Path) -> None:
    file = read(tmp_path, file_of({"t": entry()}, struct.pack("<2f", 1, 2)))
    view = file.tensor_data("t")
    del file
    assert view.view(np.float32).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"abc", "no safetensors file"),
        (file_of({}, length=1 << 40), "claims a header"),
        (file_of(b"[]"), "'{' was expected"),
        (file_of(b'{"t"'), "':' was expected"),
        (file_of(b'{"t'), "no end"),
        (file_of(b"{} x"), "after the header"),
        (file_of({"t": entry(offsets=(0, 9))}, bytes(9)), "need 8"),
        (file_of({"t": entry(offsets=(0, 8))}, bytes(7)), "past the end"),
        (file_of({"t": entry(offsets=(8, 0))}, bytes(8)), "past the end"),
        (file_of({"t": entry(shape=(1 << 62, 8))}, bytes(8)), "absurd shape"),
        (file_of({"t": entry(shape=(1,) * 9)}, bytes(8)), "absurd shape"),
        (file_of({"t": {"dtype": "F32", "shape": [2]}}, bytes(8)), "needs dtype"),
        (file_of({"t": entry() | {"more": 1}}, bytes(8)), "unknown field"),
        (file_of({"t": entry(), "u": entry(offsets=(4, 12))}, bytes(12)), "overlap"),
        (file_of(b'{"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', bytes(8)), "a count was expected"),
        (file_of(b'{"t":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', bytes(8)), "twice"),
        (
            file_of(b'{"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"t":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}', bytes(8)),
            "appears twice",
        ),
        (file_of(rb'{"\ud800":{}}'), "surrogate"),
        *((file_of(b'{"a' + name + b'":{}}'), "no UTF-8") for name in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82")),
        (file_of({"t": entry("F4", (3,), (0, 2))}, bytes(2)), "need 1"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        read(tmp_path, content)


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="of type F3"):
        read(tmp_path, file_of({"t": entry("F3")}, bytes(8)))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_change_of_bytes_can_do_harm(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    good = bytearray(file_of({"__metadata__": {"k": "v"}, "t": entry(), "u": entry("U8", (4,), (8, 12))}, bytes(12)))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(bytes(good[: data.draw(st.integers(0, len(good)))]))
    try:
        file = _core.SafetensorsFile(str(path))
    except HalfbyteError:
        return
    for name in file.tensors:
        file.tensor_data(name).tobytes()
