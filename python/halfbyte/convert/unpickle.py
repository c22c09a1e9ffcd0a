"""pytorch_model.bin without PyTorch and without trust: a pickle machine that can build tensors and nothing else.

A pickle is a program. This one knows the instructions that `torch.save` of a state dict needs and the few names it may
call; any other instruction or name is refused before anything happens, so a file can run no code. The zip archive's
tensors are stored uncompressed and are mapped, not read.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halfbyte.convert.tensors import Stored
from halfbyte.errors import FormatError

# A tensor takes some 300 bytes of the pickle. An instruction of one byte may make an object of sixty.
_MAX_PICKLE_BYTES = 16 << 20
# torch's storage classes -> (safetensors' type name, bytes of an element)
_STORAGES = {
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}  # fmt: skip
_MARK = object()


@dataclass(frozen=True)
class _Storage:
    dtype: str
    item_bytes: int
    key: str
    n_items: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not (isinstance(storage, _Storage) and isinstance(offset, int) and offset >= 0):
        raise ValueError("a tensor without a storage")
    if (
        not all(isinstance(n, int) and 0 <= n < 1 << 48 for n in (*shape, *strides))
        or not len(strides) == len(shape) < 9
    ):
        raise ValueError("a tensor with an absurd shape")
    reach = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    # Also where strides of 0 show an element again and again: reading it takes the memory of all.
    if 0 not in shape and max(reach, math.prod(shape)) > storage.n_items:
        raise ValueError("a tensor that reaches past its storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _dictionary(items: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in items}


def _key(key: Any) -> Any:
    """The key of a dictionary. A tuple of tuples, each of them the next one twice, is never done being hashed."""
    if not isinstance(key, (str, int)):
        raise ValueError("a dictionary whose keys are neither names nor numbers")
    return key


# What a pickle may name, and what calling it does here.
_CALLABLES: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _dictionary,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
}


class _Machine:
    """Runs one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: Iterator[tuple[Any, Any, int | None]]) -> Any:
        for opcode, argument, _ in program:
            step = getattr(self, f"op_{opcode.name.lower()}", None)
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in ("PROTO", "FRAME"):
                continue
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif step is None:
                raise ValueError(f"the instruction {opcode.name}, which no tensor needs")
            else:
                step(argument)
        raise ValueError("no end")

    def to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.to_mark()))

    def op_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def op_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def op_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def op_append(self, _: Any) -> None:
        item = self.stack.pop()
        self.stack[-1].append(item)

    def op_appends(self, _: Any) -> None:
        items = self.to_mark()
        self.stack[-1].extend(items)

    def op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_key(key)] = value

    def op_setitems(self, _: Any) -> None:
        items = self.to_mark()
        self.stack[-1].update(_dictionary(zip(items[::2], items[1::2], strict=True)))

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    op_long_binput = op_put = op_binput

    def op_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    op_long_binget = op_get = op_binget

    def op_global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        if module == "torch" and attribute in _STORAGES:
            self.stack.append(attribute)
        elif name in _CALLABLES:
            self.stack.append(_CALLABLES[name])
        else:
            raise ValueError(f"the name {name.replace(' ', '.')}, which no tensor needs")

    def op_stack_global(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise ValueError("a name that is no text")
        self.op_global(f"{module} {attribute}")

    def op_binpersid(self, _: Any) -> None:
        saved = self.stack.pop()
        tag, storage, key, _location, n_items = saved[:5]  # a legacy file has a view's metadata after these
        if not (isinstance(storage, str) and isinstance(key, (str, int)) and isinstance(n_items, int)):
            raise ValueError("a reference to something that is no storage")
        if tag != "storage" or storage not in _STORAGES:
            raise ValueError(f"a reference to a {storage[:80]}")
        dtype, item_bytes = _STORAGES[storage]
        self.stack.append(_Storage(dtype, item_bytes, str(key), n_items))

    def op_reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function not in _CALLABLES.values():
            raise ValueError("a call of something that is no function")
        self.stack.append(function(*arguments))

    def op_build(self, _: Any) -> None:
        self.stack.pop()  # attributes (a state dict's _metadata): not needed


_LITERALS = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE",
    "BINFLOAT", "FLOAT", "BINSTRING", "SHORT_BINSTRING", "STRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


def _run(data: Any, path: Path) -> Any:
    try:
        return _Machine().run(pickletools.genops(data))
    except FormatError:
        raise
    except Exception as error:  # a damaged pickle fails in any way a stack machine can
        raise FormatError(
            f"{path} holds {str(error) or 'a damaged pickle'}.",
            hint="Only tensors are read; fetch the safetensors file instead.",
        ) from None


def read_torch_file(path: Path) -> dict[str, Stored]:
    """The tensors of a file that torch.save wrote. Raises FormatError for anything that is no plain state dict."""
    if path.stat().st_size < 16:
        raise FormatError(f"{path} is no PyTorch file: it is {path.stat().st_size} bytes long.")
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    state, places = _read_zip(path, mapping) if zipfile.is_zipfile(path) else _read_legacy(path, mapping)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state:
        raise FormatError(f"{path} holds no tensors by name.")
    out: dict[str, Stored] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            continue
        storage = tensor.storage
        at = places.get(storage.key)
        if at is None or at < 0 or storage.n_items < 0 or at + storage.n_items * storage.item_bytes > len(mapping):
            raise FormatError(f"{path}: the storage of tensor {name} is missing or cut short.")
        out[name] = Stored(storage.dtype, tensor.shape, lambda t=tensor, a=at: _bytes_of(mapping, t, a))  # type: ignore[misc]
    return out


def _bytes_of(mapping: mmap.mmap, tensor: _Tensor, at: int) -> Any:
    n = tensor.storage.item_bytes
    data = np.frombuffer(mapping, np.uint8, tensor.storage.n_items * n, at)
    strides = (*(s * n for s in tensor.strides), 1)
    # _rebuild_tensor has checked that the last element lies inside the storage.
    view = np.lib.stride_tricks.as_strided(data[tensor.offset * n :], (*tensor.shape, n), strides, writeable=False)
    return np.ascontiguousarray(view).reshape(-1)


def _read_zip(path: Path, mapping: mmap.mmap) -> tuple[Any, dict[str, int]]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {e.filename: e for e in archive.infolist()}
            name = next((n for n in entries if n.endswith("/data.pkl") or n == "data.pkl"), None)
            if name is None or entries[name].file_size > _MAX_PICKLE_BYTES:
                raise FormatError(f"{path} is a zip archive without a PyTorch pickle.")
            state = _run(archive.read(name), path)
    except FormatError:
        raise
    except Exception as error:  # zipfile raises its own errors and, on damage, those of whatever it uses
        raise FormatError(f"{path} is a damaged zip archive: {error}") from None
    prefix = name.removesuffix("data.pkl") + "data/"
    places: dict[str, int] = {}
    for filename, entry in entries.items():
        if not filename.startswith(prefix) or entry.compress_type != zipfile.ZIP_STORED:
            continue
        # The local header repeats the name and may carry another extra field than the directory.
        header = mapping[entry.header_offset : entry.header_offset + 30]
        if len(header) == 30 and header[:4] == b"PK\x03\x04":
            name_length, extra_length = struct.unpack("<HH", header[26:30])
            places[filename.removeprefix(prefix)] = entry.header_offset + 30 + name_length + extra_length
    return state, places


_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def _read_legacy(path: Path, mapping: mmap.mmap) -> tuple[Any, dict[str, int]]:
    """Before PyTorch 1.6: pickles of a magic number, a version, the system's facts, the state dict and the storages'
    keys, one after another; then each storage's length and bytes, in the order of the keys."""
    mapping.seek(0)
    parts = []
    pickles = _Bounded(mapping)
    for _ in range(5):
        parts.append(_run(pickles, path))
        if parts[0] != _LEGACY_MAGIC:
            raise FormatError(f"{path} is no PyTorch file.")
    state, keys = parts[3], parts[4]
    sizes: dict[str, int] = {}
    for tensor in state.values() if isinstance(state, dict) else ():
        if isinstance(tensor, _Tensor):
            sizes[tensor.storage.key] = tensor.storage.item_bytes
    places: dict[str, int] = {}
    at = mapping.tell()
    for key in keys if isinstance(keys, list) else ():
        if at + 8 > len(mapping) or key not in sizes:
            break
        (n_items,) = struct.unpack("<q", mapping[at : at + 8])
        if n_items < 0:
            break
        places[key] = at + 8
        at += 8 + n_items * sizes[key]
    return state, places


class _Bounded:
    """The mapping as a file that gives no more bytes in all than the pickles of a state dict need."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping

    def read(self, n: int) -> bytes:
        if self._mapping.tell() + n > _MAX_PICKLE_BYTES:
            raise ValueError("an object of absurd length")
        return self._mapping.read(n)

    def readline(self) -> bytes:
        line = self._mapping.readline()
        self.read(0)
        return line

    def tell(self) -> int:
        return self._mapping.tell()
