"""A GGUF file as a Hugging Face folder: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from halfbyte import _core
from halfbyte.beside import written_beside
from halfbyte.convert.experts import as_checkpoint
from halfbyte.convert.families import FAMILIES, family_of_arch, family_of_type
from halfbyte.convert.family import Family
from halfbyte.convert.hyperparameters import (
    config_of,
    config_values,
    has_experts,
    heads_of,
    scoring_of,
    with_multipliers,
)
from halfbyte.convert.plan import NUMBER, Plan
from halfbyte.convert.tensors import Array, Planned, decode, encode, is_plain
from halfbyte.convert.transforms import Transform
from halfbyte.errors import FileError, FormatError, InvalidArgumentError, UnsupportedError
from halfbyte.tokenizer.to_hf import write_tokenizer

# Tensors that config.json says again.
_FROM_CONFIG = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
# What configs call the presence of tensors -> those of which one is there then.
_FLAGS = {
    "attention_bias": ("attn_q.bias", "attn_qkv.bias"),
    "attention_out_bias": ("attn_output.bias",),
    "use_qkv_bias": ("attn_q.bias",),
    "use_bias": ("attn_q.bias",),
    "mlp_bias": ("ffn_up.bias",),
    "bias": ("ffn_up.bias",),
    "use_qk_norm": ("attn_q_norm.weight",),
}
_SHARD_BYTES = 5 << 30


def plan_hf(path: Path, type_name: str | None = None) -> Plan:
    """What a GGUF file's folder will hold; `metadata` is its config.json.

    type_name: f32, f16 or bf16 for all weights; None keeps those three and turns blocks into bf16.
    """
    wanted = type_name.upper() if type_name else None
    if wanted is not None and not is_plain(wanted):
        raise InvalidArgumentError(f"safetensors folders hold no {type_name}.", hint="Use f32, f16 or bf16.")
    with config_values(str(path)):
        return _plan(path, _core.GgufFile(str(path)), wanted)


def _plan(path: Path, file: Any, wanted: str | None) -> Plan:
    metadata = file.metadata
    tensors = {t.name: t for t in file.tensors}
    family = _family_of(metadata)
    transforms = family.transforms
    if other := family_of_type(family.back_as):
        metadata = {k.replace(f"{family.arch}.", f"{other.arch}.", 1): v for k, v in with_multipliers(metadata).items()}
        family = other
    config = config_of(family, metadata, tied="output.weight" not in tensors, tensors=tensors)
    for flag, signs in _FLAGS.items():
        config[flag] = any(f"blk.0.{name}" in tensors for name in signs)
    if has_experts(family, config):
        dense = [i for i in range(config["num_hidden_layers"]) if f"blk.{i}.ffn_gate_inp.weight" not in tensors]
        config |= {"mlp_only_layers": dense} if dense else {}
    heads = heads_of(family, config)
    names = _their_names(family, tensors)
    planned = []
    for name, info in tensors.items():
        if name in _FROM_CONFIG:
            _into_config(config, name, file.tensor_f32(name))
            continue
        if name.endswith(".attn_v_b.weight"):
            continue  # comes with its keys
        if name.endswith(".attn_k_b.weight"):
            planned.append(_fused_latent(path, file, name, names, wanted))
            continue
        stem, _, kind = name.rpartition(".")
        theirs = names.get(NUMBER.sub("{}", stem))
        if theirs is None:
            raise FormatError(f"{path}: tensor {name} has no place in a {family.model_types[0]} folder.")
        number = NUMBER.findall(stem)
        shape = tuple(info.shape[::-1])
        transform = transforms.get(stem.split(".")[-1], Transform())
        if kind == "bias" and not transform.biases:
            transform = Transform()
        out_shape = shape[::-1] if transform.turns and len(shape) == 2 else shape
        form = wanted or (info.format if is_plain(info.format) else "BF16")

        def make(name: str = name, shape: tuple[int, ...] = shape, form: str = form, transform: Transform = transform,
                 stored: str = info.format) -> Array:  # fmt: skip
            data = file.tensor_data(name)
            with config_values(f"{path}: tensor {name}"):
                if stored == form and not transform.arithmetic:
                    elements = data.view({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[form]).reshape(shape)
                    return transform.undo(elements, heads)
                return encode(form, transform.undo(decode_bytes(stored, data, shape), heads), name)

        planned.append(Planned(f"{theirs.format(*number)}.{kind}", form, out_shape, make))
    config["torch_dtype"] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[
        max({p.format for p in planned}, key=lambda f: sum(p.n_bytes for p in planned if p.format == f))
    ]
    planned = as_checkpoint(planned, family)
    return Plan(path, family, config, family.scatter(planned) if family.scatter is not None else planned)


def _fused_latent(path: Path, file: Any, name: str, names: Mapping[str, str], wanted: str | None) -> Planned:
    """The matrices of latent attention's keys (heads, rank, dimensions) and values (heads, dimensions, rank), which newer
    files hold apart, as the one that folders hold."""
    found = [next((t for t in file.tensors if t.name == n), None) for n in (name, name.replace("_k_b", "_v_b"))]
    shapes = [tuple(t.shape[::-1]) if t is not None else () for t in found]
    theirs = names.get("blk.{}.attn_kv_b")
    if theirs is None or any(len(s) != 3 for s in shapes) or shapes[0][:2] != (shapes[1][0], shapes[1][2]):
        raise FormatError(f"{path}: tensor {name} and its values do not fit together.")
    form = wanted or (found[0].format if is_plain(found[0].format) else "BF16")  # type: ignore[union-attr]
    heads, rank, still = shapes[0]

    def make() -> Array:
        keys, values = (file.tensor_f32(t.name).reshape(s) for t, s in zip(found, shapes, strict=True))  # type: ignore[union-attr]
        both = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        return encode(form, np.ascontiguousarray(both).reshape(-1, rank), name)

    number = NUMBER.findall(name)
    return Planned(f"{theirs.format(*number)}.weight", form, (heads * (still + shapes[1][1]), rank), make)


def decode_bytes(form: str, data: Array, shape: tuple[int, ...]) -> Array:
    """A tensor's stored bytes as float32."""
    views: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    return decode(form, data.view(views.get(form, np.uint8)), shape)


def _family_of(metadata: Mapping[str, Any]) -> Family:
    arch = str(metadata.get("general.architecture"))
    family = family_of_arch(arch)
    if family is None:
        known = sorted({f.arch for f in FAMILIES})
        raise UnsupportedError(
            f'No folder can be made of architecture "{arch}".', hint=f"Known are {', '.join(known)}."
        )
    # One architecture, several model types: the one that has what the file tells of.
    has_experts = bool(metadata.get(f"{arch}.expert_count"))
    told = [k for k in ("attention.sliding_window", "expert_shared_feed_forward_length") if metadata.get(f"{arch}.{k}")]
    same = [f for f in FAMILIES if f.arch == arch and bool(f.experts) == has_experts] or [family]
    scoring = scoring_of(metadata.get(f"{arch}.expert_gating_func"))
    same = [f for f in same if f.defaults.get("scoring_func", scoring) == scoring] or same
    return max(same, key=lambda f: sum((k in f.keys) == (k in told) for k in told))


def _their_names(family: Family, tensors: Mapping[str, Any]) -> dict[str, str]:
    """Our stem -> theirs. Where a family spells a tensor in several ways, the way that comes with this file's others."""
    out: dict[str, str] = {}
    for theirs, ours in family.names.items():
        out.setdefault(ours, theirs)
    if "blk.0.attn_norm_2.weight" in tensors:
        out |= {ours: theirs for theirs, ours in family.names.items() if theirs.endswith(("ln_attn", "ln_mlp"))}
    return out


def _into_config(config: dict[str, Any], name: str, factors: Array) -> None:
    of_full = config.get("rope_parameters", {}).get("full_attention", {})
    if of_full.get("rope_type") == "proportional":
        of_full["partial_rotary_factor"] = float(np.mean(factors < 2))
        return
    rope = config.setdefault("rope_scaling", {"rope_type": "longrope"})
    if name == "rope_freqs.weight":
        # Llama 3's factors were computed from four numbers; these give them back.
        rope |= {"rope_type": "llama3", **_llama3_numbers(config, factors)}
        return
    rope[name.removeprefix("rope_factors_").replace(".weight", "_factor")] = [float(f) for f in factors]


def _llama3_numbers(config: dict[str, Any], factors: Array) -> dict[str, Any]:
    """Every published Llama 3 uses one of these; the factors of any other cannot be put into config.json."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    wavelengths = 2 * np.pi * config["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    factor = float(factors.max())
    for original in (8192, 4096, 2048, 16384, 32768, 1024, 512, 256, 128, 64, 32):
        smooth = np.clip((original / wavelengths - 1.0) / 3.0, 0.0, 1.0)
        if np.allclose(1 / ((1 - smooth) / factor + smooth), factors, rtol=1e-4):
            return {
                "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }  # fmt: skip
    raise UnsupportedError("The file's rope factors follow no rule that config.json can express.")


def write_folder(plan: Plan, out: Path, progress: Callable[[int, int], Any] | None = None) -> None:
    """Writes a planned folder beside its place and renames it when it is complete. Raises FileError."""
    total = sum(t.n_bytes for t in plan.tensors)
    parent = out.resolve().parent
    if not parent.is_dir():
        raise FileError(f"{parent}: no such folder.", hint="Make it first.")
    if shutil.disk_usage(parent).free < total + (64 << 20):
        raise FileError(f"{out} needs {total} bytes, more than are free.", hint="Make room.")
    with written_beside(parent / out.name, folder=True) as new:
        (new / "config.json").write_text(json.dumps(plan.metadata, indent=2) + "\n")
        write_tokenizer(_core.GgufFile(str(plan.path)).metadata, new)
        _write_shards(plan, new, total, progress)


def _write_shards(plan: Plan, folder: Path, total: int, progress: Callable[[int, int], Any] | None) -> None:
    shards: list[list[Planned]] = [[]]
    size = 0
    for tensor in plan.tensors:
        if shards[-1] and size + tensor.n_bytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.n_bytes
    done = 0
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        weight_map |= {t.name: name for t in shard}
        for written in write_safetensors(folder / name, shard):
            done += written
            if progress is not None:
                progress(done, total)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_safetensors(path: Path, tensors: list[Planned], metadata: Mapping[str, str] | None = None) -> Any:
    """Writes F32, F16 and BF16 tensors one at a time; yields the bytes written after each."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    at = 0
    for t in tensors:
        header[t.name] = {"dtype": t.format, "shape": list(t.shape), "data_offsets": [at, at + t.n_bytes]}
        at += t.n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for t in tensors:
            file.write(np.ascontiguousarray(t.make()).tobytes())
            yield t.n_bytes
        file.flush()
        os.fsync(file.fileno())
