"""From a checkpoint to what the engine and GGUF know: metadata, and tensors to be made one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfbyte.convert.checkpoint import Checkpoint
from halfbyte.convert.experts import as_stacks
from halfbyte.convert.families import FAMILIES, family_of_type
from halfbyte.convert.family import Family
from halfbyte.convert.grouped import as_three
from halfbyte.convert.hyperparameters import config_values, heads_of, hyperparameters, rope_tensors
from halfbyte.convert.quantized import weights_of
from halfbyte.convert.tensors import Array, Planned, Weight, decode, encode, fits, is_plain
from halfbyte.convert.transforms import Heads, Transform
from halfbyte.errors import FormatError, UnsupportedError

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
# Where larger models keep the one that speaks.
_SPEAKING = re.compile(r"^model\.(language_model|text_model)\.")
# What matrices become when a format's blocks do not divide their rows.
_FALLBACK = "F16"


@dataclass(frozen=True)
class Plan:
    """A model to be: its metadata (without the vocabulary) and tensors."""

    path: Path
    family: Family
    metadata: dict[str, Any]
    tensors: list[Planned]
    notes: tuple[str, ...] = ()  # what the folder holds beside it


def plan_folder(folder: Path) -> Plan:
    """What a folder's model becomes.

    Matrices keep the type that the checkpoint holds, quantized ones in the block format that loses least. Norms and
    biases are F32, as GGUF readers expect.
    """
    checkpoint = Checkpoint(folder)
    family = family_of_config(checkpoint.config)
    with config_values():
        heads = heads_of(family, checkpoint.config)
        numbers = hyperparameters(family, checkpoint.config)
        ropes = rope_tensors(family, checkpoint.config)
    tied = checkpoint.config.get("tie_word_embeddings", family.defaults.get("tie_word_embeddings", False))
    tensors: dict[str, Planned] = {}
    metadata = {
        "general.architecture": family.arch,
        "general.type": "model",
        "general.name": _name_of(checkpoint),
        **numbers,
    }
    outermost = next(theirs for theirs, ours in family.names.items() if ours == "token_embd").split(".")[0]
    with config_values():
        unused = _unused(family, metadata, checkpoint.config)
    weights = as_stacks(weights_of(checkpoint), family, metadata[f"{family.arch}.embedding_length"])
    if family.gather is not None:
        weights = family.gather(weights, checkpoint.config)
    weights = as_three(weights, family, heads)
    for theirs, weight in weights.items():
        stem, _, kind = theirs.rpartition(".")
        stem = _SPEAKING.sub("model.", stem).removeprefix("language_model.")
        if stem.startswith(unused):
            continue
        # A model without its head is saved without its name, too.
        found = our_name(family, stem) or our_name(family, f"{outermost}.{stem}")
        if found is None:
            raise FormatError(
                f"{folder}: tensor {theirs} has no place in a {family.model_types[0]} model.",
                hint="The model is a variant that halfbyte does not know.",
            )
        ours, transform = found
        if ours == "output" and tied and kind == "weight":
            continue
        name = f"{ours}.{kind}"
        if kind == "bias" and not transform.biases:
            transform = _NOTHING
        if name in tensors:
            raise FormatError(f"{folder}: two tensors claim the place of {name}.")
        tensors[name] = _planned(name, weight, transform, heads)
    for name, factors in ropes.items():
        tensors[name] = Planned(name, "F32", factors.shape, lambda f=factors: f)  # type: ignore[misc]
    _require_whole_layers(folder, tensors, metadata, family.in_some_layers)
    left_out = ", ".join(checkpoint.left_out)
    notes = (f"what sees or hears is left out ({left_out})",) if left_out else ()
    return Plan(folder, family, metadata, list(tensors.values()), notes)


def _unused(family: Family, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Beginnings of names that speaking needs none of: of layers past the last, which predict further tokens; and of
    keys and values in layers that read those of others."""
    n_further = config.get("num_nextn_predict_layers")
    n_layers = int(metadata[f"{family.arch}.block_count"])
    n_shared = metadata.get(f"{family.arch}.attention.shared_kv_layers", 0)
    further = range(n_layers, n_layers + (min(n_further, 64) if isinstance(n_further, int) else 0))
    if family.gather is not None:  # which has seen to them
        n_shared = 0
    reading = [f"model.layers.{i}.self_attn.{of}_" for i in range(n_layers - n_shared, n_layers) for of in "kv"]
    return (*(f"model.layers.{i}." for i in further), *reading)


def _require_whole_layers(
    folder: Path, names: Mapping[str, Any], metadata: Mapping[str, Any], in_some_layers: tuple[str, ...]
) -> None:
    """Raises FormatError for a model without embeddings or final norm, or a layer without a matrix that others have."""
    arch = metadata["general.architecture"]
    layers: dict[str, set[int]] = {}
    for name in names:
        found = re.fullmatch(r"blk\.(\d+)\.(.+)\.weight", name)
        # Of models with experts the first layers may have none.
        is_everywhere = found and found.group(2) not in in_some_layers
        if found and is_everywhere and not (metadata.get(f"{arch}.expert_count") and found.group(2).startswith("ffn_")):
            layers.setdefault(found.group(2), set()).add(int(found.group(1)))
    n_layers = int(metadata[f"{arch}.block_count"])
    if n_layers > len(names):
        raise FormatError(f"{folder} does not hold {n_layers} layers.", hint="Fetch the model again.")
    every = range(n_layers)
    expected = [f"blk.{i}.{stem}.weight" for stem in layers for i in every if i not in layers[stem]]
    missing = [n for n in ("token_embd.weight", "output_norm.weight", *expected) if n not in names]
    if missing:
        raise FormatError(
            f"{folder} does not hold what becomes {missing[0]} ({len(missing)} missing).", hint="Fetch the model again."
        )


def family_of_config(config: Mapping[str, Any]) -> Family:
    """The family a config.json names. Raises UnsupportedError."""
    family = family_of_type(str(config.get("model_type")))
    if family is None:
        known = sorted({t for f in FAMILIES for t in f.model_types})
        raise UnsupportedError(
            f'config.json: model_type "{config.get("model_type")}" is not supported.',
            hint=f"Supported are {', '.join(known)}.",
        )
    return family


def our_name(family: Family, stem: str) -> tuple[str, Transform] | None:
    """Their stem ("model.layers.3.self_attn.q_proj") -> ours ("blk.3.attn_q") and what is done to its rows."""
    numbers = NUMBER.findall(stem)
    pattern = family.names.get(NUMBER.sub("{}", stem))
    if pattern is None or len(numbers) > 1:
        return None
    ours = pattern.format(*numbers)
    return ours, family.transforms.get(ours.split(".")[-1], _NOTHING)


_NOTHING = Transform()


def _planned(name: str, weight: Weight, transform: Transform, heads: Heads) -> Planned:
    if transform.turns and weight.parts:  # packed matrices are never stored turned
        transform = _NOTHING
    shape = weight.shape[::-1] if transform.turns and len(weight.shape) == 2 else weight.shape
    format_name = _format_for(name, weight, shape)
    as_numbers = (
        transform.arithmetic or (transform.turns and not is_plain(weight.format)) or format_name != weight.format
    )

    def make() -> Array:
        if not as_numbers:
            return transform.apply(weight.read(), heads)
        numbers = transform.apply(weight.f32(), heads)
        return encode(format_name, numbers.reshape(shape), name)

    return Planned(name, format_name, shape, make, weight.note)


def _format_for(name: str, weight: Weight, shape: tuple[int, ...]) -> str:
    if len(shape) < 2 or "norm" in name or name.startswith("position_embd") or name.endswith(".bias"):
        return "F32"
    if ".ffn_gate_inp." in name or ".altup_" in name:  # routers are small, and a choice is all or nothing
        return "F32"
    return weight.format if fits(weight.format, shape[-1]) else _FALLBACK


def _name_of(checkpoint: Checkpoint) -> str:
    name = checkpoint.config.get("_name_or_path")
    if not isinstance(name, str) or not name or Path(name).is_absolute() or name.startswith("."):
        name = checkpoint.folder.resolve().name
    return name.rstrip("/").split("/")[-1]


def decoded(planned: Planned) -> Array:
    """A planned tensor as float32."""
    return decode(planned.format, planned.make(), planned.shape)
