"""A Hugging Face model folder: its JSON files and its tensors, found and checked but not read yet."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.convert.tensors import Stored
from halfbyte.convert.unpickle import read_torch_file
from halfbyte.errors import FormatError, ModelNotFoundError

# A JSON file of a model is read whole; no real one comes near this.
_MAX_JSON_BYTES = 256 << 20
# Tensors that are no weights (buffers).
_IGNORED = re.compile(
    r"(rotary_emb|rotary|rope)\.(inv_freq|cos_cached|sin_cached)$|\.(attn|attention)\.(bias|masked_bias)$"
    r"|\.(q|k|v|output)_(scale|zero_point)$"
)
# Those of parts of a model that do not speak.
_SILENT = re.compile(
    r"^(?:model\.)?(vision_tower|vision_model|visual|multi_modal_projector|connector|audio_tower|embed_vision|embed_audio)\."
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} when there is no such file. Raises FormatError for anything else."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise FormatError(f"{path} is {path.stat().st_size} bytes long; at most {_MAX_JSON_BYTES} are read.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path} holds no JSON object.")
    return value


def is_model_folder(path: Path) -> bool:
    """Whether a folder holds a model as Hugging Face's libraries write it."""
    return (path / "config.json").is_file()


class Checkpoint:
    """A folder open for reading. Raises FormatError for files that are damaged or do not fit together."""

    def __init__(self, folder: Path) -> None:
        if not is_model_folder(folder):
            raise ModelNotFoundError(f"{folder} has no config.json.", hint="Name a model's folder.")
        self.folder = folder
        self.config = text_config(read_json(folder / "config.json"))
        tensors = read_tensors(folder)
        silent = {name: part[1] for name in tensors if (part := _SILENT.match(name))}
        #: Parts of a model that also sees or hears, which are not among its tensors here.
        self.left_out = sorted(set(silent.values()))
        self.tensors = {n: t for n, t in tensors.items() if n not in silent and not _IGNORED.search(n)}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config; of models that also see or hear, their text_config."""
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return config
    outer = {k: config[k] for k in ("quantization_config", "tie_word_embeddings", "torch_dtype") if k in config}
    return {"model_type": config.get("model_type"), **outer, **inner}


def read_tensors(folder: Path) -> Mapping[str, Stored]:
    """All tensors of a folder: model.safetensors, its shards, or pytorch_model.bin."""
    for index, single, read in (
        ("model.safetensors.index.json", "model.safetensors", read_safetensors),
        ("pytorch_model.bin.index.json", "pytorch_model.bin", read_torch_file),
    ):
        if (folder / index).is_file():
            return _read_shards(folder, index, read)
        if (folder / single).is_file():
            return read(folder / single)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return read_safetensors(files[0])
    raise ModelNotFoundError(
        f"{folder} has neither model.safetensors nor pytorch_model.bin.", hint="Fetch the model's weights too."
    )


def _read_shards(folder: Path, index: str, read: Any) -> dict[str, Stored]:
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise FormatError(f'{folder / index} has no "weight_map" of tensor names to file names.')
    tensors: dict[str, Stored] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise FormatError(f'{folder / index} names "{name}"; shards must lie beside it.')
        if not (folder / name).is_file():
            raise ModelNotFoundError(f"{folder / name} is missing.", hint="Fetch all parts of the model.")
        for tensor, stored in read(folder / name).items():
            if tensor in tensors:
                raise FormatError(f"{folder}: tensor {tensor} is in two shards.")
            tensors[tensor] = stored
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise FormatError(f"{folder}: {index} promises {missing[0]}, but no shard holds it ({len(missing)} missing).")
    return tensors


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file."""
    file = _core.SafetensorsFile(str(path))
    return {
        name: Stored(dtype, shape, lambda name=name: file.tensor_data(name))  # type: ignore[misc]
        for name, (dtype, shape) in file.tensors.items()
    }
