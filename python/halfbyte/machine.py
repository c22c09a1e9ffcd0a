"""What the machine has, and what a model would take of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError

_LAYER = re.compile(r"blk\.(\d{1,6})\.")
# Of a GPU's free memory; the rest is for keys, values and work buffers.
_GPU_WEIGHT_SHARE = 0.8
# Bytes of one position of one head's key or value, per dimension.
_KV_BYTES = {"f16": 2.0, "bf16": 2.0, "f32": 4.0, "q8_0": 34 / 32, "q4_0": 18 / 32}


def _meminfo(field: str) -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _cgroup(name: str) -> int | None:
    try:
        text = Path(f"/sys/fs/cgroup/{name}").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def total_memory() -> int:
    """Bytes of memory this process may have: the machine's, or its container's limit."""
    limit = _cgroup("memory.max")
    return min(_meminfo("MemTotal"), limit) if limit else _meminfo("MemTotal")


def available_memory() -> int:
    """Bytes that can be used without swapping."""
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    free = _meminfo("MemAvailable")
    return min(free, max(0, limit - used)) if limit and used is not None else free


def estimate_memory(path: Path, *, n_ctx: int = 0, n_batch: int = 512, kv_type: str = "f16") -> dict[str, Any]:
    """Bytes of weights, keys and values, and work buffers of a model file, and whether they fit. Reads headers only."""
    if n_ctx < 0 or n_batch < 1:
        raise InvalidArgumentError("The context is a count of tokens or 0, the batch at least 1.")
    file = _core.GgufFile(str(path))
    config = _core.read_config(str(path))
    n_ctx = n_ctx or config["n_ctx_train"]
    tied = not any(t.name == "output.weight" for t in file.tensors)
    # Packed rows carry scales that are a little wider than the file's; a tied embedding is packed once more as output.
    weights = 0
    active = 0  # of them, read for each token
    layers, stacks = [0] * config["n_layers"], [0] * config["n_layers"]  # of each; of its experts
    used, n_experts = (
        file.metadata.get(f"{config['architecture']}.{k}", 0) for k in ("expert_used_count", "expert_count")
    )
    for tensor in file.tensors:
        packed = 1.03 * tensor.n_bytes
        if tensor.name == "token_embd.weight":
            packed = packed if tied else 0
        weights += int(packed)
        if (at := _LAYER.match(tensor.name)) and int(at[1]) < len(layers):
            layers[int(at[1])] += int(packed)
            stacks[int(at[1])] += int(packed) * ("_exps." in tensor.name)
        active += int(packed * used / n_experts) if "_exps." in tensor.name and n_experts else int(packed)
    per_value = _KV_BYTES[kv_type]
    per_token = [int(heads * (config["head_dim"] + config["value_dim"]) * per_value) for heads in config["n_kv_heads"]]
    kv = sum(per_token) * n_ctx
    row = 3 * config["n_embd"] + 4 * max(config["n_heads"]) * config["head_dim"] + 2 * max(config["n_ff"])
    buffers = 4 * (n_batch * row + 2 * config["n_vocab"])
    total, available = weights + kv + buffers, available_memory()
    advice = ""
    if total > available:
        room = max(0, available - weights - buffers) // max(1, sum(per_token))
        advice = (
            f"With a context of {room} tokens (-c {room}) it would."
            if room >= 512
            else "Choose a smaller model or a stronger quantization."
        )
    return {
        "path": str(path),
        "n_ctx": n_ctx,
        "n_ctx_train": config["n_ctx_train"],
        "n_layers": config["n_layers"],
        "kv_type": kv_type,
        "weight_bytes": weights,
        "active_bytes": active,
        "expert_bytes": sum(stacks),
        "gpu": _gpu_plan(layers, stacks, weights - sum(layers)),
        "kv_bytes": kv,
        "kv_bytes_per_token": sum(per_token),
        "kv_formula": f"{config['n_layers']} layers x kv heads x (key + value dims) x {per_value:g} bytes x {n_ctx} tokens",
        "buffer_bytes": buffers,
        "total_bytes": total,
        "available_bytes": available,
        "fits": total <= available,
        "advice": advice,
    }


def _gpu_plan(layers: list[int], stacks: list[int], output: int) -> dict[str, Any] | None:
    """What the GPUs hold of a model, None where there is none.

    layers, stacks: bytes of each layer, and of its experts. n_gpu_layers: how many of the last layers fit; n_cpu_moe: the
    fewest layers whose experts stay on the CPU so that all the rest fits, None where that is not enough.
    """
    gpu = _core.gpu_info()
    if not gpu["used"]:
        return None
    available = sum(each["memory_available_bytes"] for each in (gpu, *gpu["others"]))
    room = _GPU_WEIGHT_SHARE * available - output
    n_layers = len(layers)
    while n_layers and sum(layers[-n_layers:]) > room:
        n_layers -= 1
    kept = (n for n in range(len(layers) + 1) if sum(layers) - sum(stacks[:n]) <= room)
    return {"available_bytes": available, "n_gpu_layers": n_layers, "n_cpu_moe": next(kept, None)}


def best_context(estimate: dict[str, Any], weight_bytes: int) -> int:
    """The longest context, in tokens, that leaves room for weights of that size; 0 where they do not fit at all."""
    room: int = estimate["available_bytes"] - weight_bytes - estimate["buffer_bytes"]
    longest: int = room // max(1, estimate["kv_bytes_per_token"])
    return max(0, min(int(estimate["n_ctx_train"]), longest))


def expected_speed(estimate: dict[str, Any], weight_bytes: int, bandwidth: float) -> float:
    """Tokens a second at the beginning of an answer, were nothing but memory in the way. bandwidth: bytes a second."""
    share: float = estimate["active_bytes"] / max(1, estimate["weight_bytes"])
    return bandwidth / max(1.0, weight_bytes * share)
