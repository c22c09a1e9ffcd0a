"""GGUF: what is written is read, what is damaged is refused with a reason, and nothing crashes."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte import _core
from halfbyte.errors import FileError, FormatError, HalfbyteError, UnsupportedError

from ..conftest import write_tiny_llama

VALUES = st.one_of(
    st.booleans(),
    st.integers(-(1 << 62), 1 << 62),
    st.floats(allow_nan=False, width=32),
    st.text(max_size=20),
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=5),
    st.lists(st.text(max_size=5), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=3),
)


@given(
    st.dictionaries(st.text(min_size=1, max_size=10).filter(lambda k: k != "general.alignment"), VALUES, max_size=6),
    st.integers(1, 80),
)
@settings(max_examples=60, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, metadata: dict, n: int) -> None:
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    data = np.random.default_rng(n).normal(size=n).astype(np.float32)
    _core.write_gguf(
        str(path), metadata, [("a", "F32", [n], data), ("b", "I8", [n, 2], np.arange(2 * n, dtype=np.int8))]
    )
    file = _core.GgufFile(str(path))
    assert file.metadata == metadata
    assert np.array_equal(file.tensor_f32("a"), data)
    assert file.tensors[1].shape == (n, 2)
    assert file.tensor_f32("b").shape == (2, n)


def test_the_package_reads_our_files_and_we_read_its(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    data = np.arange(64, dtype=np.float32).reshape(2, 32)
    _core.write_gguf(str(ours), {"general.architecture": "x", "list": ["a", "b"]}, [("t", "F32", [32, 2], data)])
    reader = gguf.GGUFReader(ours)
    assert np.array_equal(reader.tensors[0].data, data)
    writer = gguf.GGUFWriter(theirs, "x")
    writer.add_uint32("n", 7)
    writer.add_array("list", ["a", "ü"])
    writer.add_tensor("t", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = _core.GgufFile(str(theirs))
    assert file.metadata["list"] == ["a", "ü"]
    assert file.metadata["n"] == 7
    assert np.array_equal(file.tensor_f32("t"), data)


def header(n_tensors: int = 0, n_keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tensor(name: str, shape: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def padded(data: bytes, extra: int = 64) -> bytes:
    return data + bytes(-len(data) % 32) + bytes(extra)


CASES = {
    "empty": (b"", FormatError, "empty"),
    "not a gguf": (b"PK\x03\x04" + bytes(40), FormatError, "not a GGUF file"),
    "version": (header(version=9), UnsupportedError, "version 9"),
    "version 1": (header(version=1), UnsupportedError, "version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), UnsupportedError, "big-endian"),
    "short": (b"GGUF" + struct.pack("<I", 3), FormatError, "needs 8 bytes"),
    "many tensors": (header(n_tensors=1 << 60), FormatError, "claims"),
    "many keys": (header(n_keys=1 << 60), FormatError, "claims"),
    "long key": (header(n_keys=1) + struct.pack("<Q", 1 << 62) + bytes(20), FormatError, "needs"),
    "bad type": (header(n_keys=1) + text("k") + struct.pack("<I", 77) + bytes(20), FormatError, "unknown type 77"),
    "bad bool": (header(n_keys=1) + text("k") + struct.pack("<IB", 7, 3) + bytes(20), FormatError, "neither 0 nor 1"),
    "long array": (
        header(n_keys=1) + text("k") + struct.pack("<IIQ", 9, 10, 1 << 61),
        FormatError,
        "at least 8 bytes each, but 0 bytes remain",
    ),
    "deep array": (
        header(n_keys=1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50 + bytes(99),
        FormatError,
        "deeper",
    ),
    "twice": (header(n_keys=2) + (text("k") + struct.pack("<IB", 7, 1)) * 2, FormatError, "twice"),
    "alignment": (
        header(n_keys=1) + text("general.alignment") + struct.pack("<II", 4, 0) + bytes(8),
        FormatError,
        "alignment",
    ),
    "retired type": (padded(header(n_tensors=1) + tensor("t", [32], 4, 0)), UnsupportedError, "type 4"),
    "fork type": (padded(header(n_tensors=1) + tensor("t", [32], 139, 0)), UnsupportedError, "type 139"),
    "no axes": (padded(header(n_tensors=1) + tensor("t", [], 0, 0)), FormatError, "0 axes"),
    "five axes": (padded(header(n_tensors=1) + tensor("t", [1] * 5, 0, 0)), FormatError, "5 axes"),
    "zero axis": (padded(header(n_tensors=1) + tensor("t", [0], 0, 0)), FormatError, "length 0"),
    "overflow": (padded(header(n_tensors=1) + tensor("t", [1 << 40, 1 << 40], 0, 0)), FormatError, "axis 1"),
    "half a block": (padded(header(n_tensors=1) + tensor("t", [33], 2, 0)), FormatError, "not a multiple of the 32"),
    "past the end": (padded(header(n_tensors=1) + tensor("t", [32], 0, 0)), FormatError, "past the end"),
    "far offset": (padded(header(n_tensors=1) + tensor("t", [1], 0, (1 << 64) - 32)), FormatError, "past the end"),
    "misaligned": (padded(header(n_tensors=1) + tensor("t", [1], 0, 4)), FormatError, "multiple of the alignment"),
    "overlap": (
        padded(header(n_tensors=2) + tensor("a", [9], 0, 0) + tensor("b", [1], 0, 32), 128),
        FormatError,
        "overlap",
    ),
    "odd name": (padded(header(n_tensors=1) + tensor("t\0", [1], 0, 0)), FormatError, "byte 0x00"),
    "no text": (padded(header(n_tensors=1) + tensor("ü", [1], 0, 0)), FormatError, "printable ASCII"),
    "same name": (padded(header(n_tensors=2) + tensor("a", [1], 0, 0) + tensor("a", [1], 0, 32)), FormatError, "twice"),
}


@pytest.mark.parametrize("name", list(CASES))
def test_damage_has_its_own_error(name: str, tmp_path: Path) -> None:
    data, error, message = CASES[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(error, match=message):
        _core.GgufFile(str(path))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot open"):
        _core.GgufFile(str(tmp_path / "missing.gguf"))
    with pytest.raises(FileError, match="folder"):
        _core.GgufFile(str(tmp_path))
    with pytest.raises(FileError, match="cannot"):
        _core.write_gguf(str(tmp_path / "no" / "where.gguf"), {}, [])


def test_real_numbers_are_written_as_readers_expect(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    _core.write_gguf(str(path), {"eps": 1e-5, "huge": 1e300}, [])
    fields = gguf.GGUFReader(path).fields
    assert fields["eps"].types == [gguf.GGUFValueType.FLOAT32]
    assert fields["huge"].types == [gguf.GGUFValueType.FLOAT64]
    assert _core.GgufFile(str(path)).metadata["eps"] == float(np.float32(1e-5))


def test_split_files(tmp_path: Path) -> None:
    for i in (1, 2):
        metadata = {"split.count": 2, "split.no": i - 1, "split.tensors.count": 2} | (
            {"general.architecture": "x"} if i == 1 else {}
        )
        _core.write_gguf(
            str(tmp_path / f"m-0000{i}-of-00002.gguf"), metadata, [(f"t{i}", "F32", [4], np.full(4, i, np.float32))]
        )
    file = _core.GgufFile(str(tmp_path / "m-00001-of-00002.gguf"))
    assert [t.name for t in file.tensors] == ["t1", "t2"]
    assert file.tensor_f32("t2").tolist() == [2, 2, 2, 2]
    (tmp_path / "m-00002-of-00002.gguf").rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(FileError, match="part 2 of 2"):
        _core.GgufFile(str(tmp_path / "m-00001-of-00002.gguf"))
    with pytest.raises(FormatError, match="one part of a model"):
        _core.GgufFile(str(tmp_path / "elsewhere.gguf"))


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"before")
    with pytest.raises(HalfbyteError):
        _core.write_gguf(str(path), {}, [("t", "F32", [4], bytes(3))])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


MUTATE = """
import random, resource, sys
from halfbyte import _core
from halfbyte.errors import HalfbyteError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
original, path, n = open(sys.argv[1], "rb").read(), sys.argv[2], int(sys.argv[3])
draw, loaded = random.Random(1), 0
for i in range(n):
    data = bytearray(original)
    kind = i % 4
    if kind == 0:
        del data[draw.randrange(len(data)):]
    elif kind == 1:
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == 2:
        at = draw.randrange(4000)
        data[at:at + 8] = draw.choice([b"\\xff" * 8, bytes(8), (1 << 62).to_bytes(8, "little"), (1 << 31).to_bytes(8, "little")])
    else:
        at = draw.randrange(4000)
        data[at:at] = draw.randbytes(draw.randint(1, 9))
    open(path, "wb").write(data)
    try:
        model = _core.Model.load(path, n_threads=1)
        engine = _core.Engine(model, n_ctx=64, n_threads=1)
        engine.forward([1, 2, 3])
        loaded += 1
    except (HalfbyteError, MemoryError):
        pass
print("survived", loaded)
"""


def test_a_thousand_mutations_give_an_error_or_load(tmp_path: Path) -> None:
    original = write_tiny_llama(tmp_path / "original.gguf", n_layers=1, format_name="Q4_0")
    command = [sys.executable, "-c", MUTATE, str(original), str(tmp_path / "mutant.gguf"), "1000"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1000, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.startswith("survived")
