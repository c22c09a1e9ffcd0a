"""What the machine has, and what a model would take of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError

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


def kv_numbers(config: dict[str, Any]) -> list[int]:
    """Numbers that a position takes of each layer's keys and values; none where a layer reads those of another."""
    shapes = zip(config["n_kv_heads"], config["key_dims"], config["value_dims"], config["kv_layers"], strict=True)
    return [heads * (key + value) if source < 0 else 0 for heads, key, value, source in shapes]


def estimate_memory(
    path: Path, *, n_ctx: int = 0, n_batch: int = 512, kv_type: str = "f16", gpu_memory_utilization: float = 0.9
) -> dict[str, Any]:
    """Bytes of weights, keys and values, and work buffers of a model file, and whether they fit. Reads headers only."""
    if n_ctx < 0 or n_batch < 1:
        raise InvalidArgumentError("The context is a count of tokens or 0, the batch at least 1.")
    file = _core.GgufFile(str(path))
    config = _core.read_config(str(path))
    budget = _core.GpuBudget(utilization=gpu_memory_utilization, n_ctx=n_ctx, n_batch=n_batch, kv_type=kv_type)
    n_ctx = n_ctx or config["n_ctx_train"]
    tied = not any(t.name == "output.weight" for t in file.tensors)
    # Packed rows carry scales that are a little wider than the file's; a tied embedding is packed once more as output.
    weights = 0
    active = 0  # of them, read for each token
    experts = 0  # of them
    used, n_experts = (
        file.metadata.get(f"{config['architecture']}.{k}", 0) for k in ("expert_used_count", "expert_count")
    )
    for tensor in file.tensors:
        packed = 1.03 * tensor.n_bytes
        if tensor.name == "token_embd.weight":
            packed = packed if tied else 0
        weights += int(packed)
        experts += int(packed) * ("_exps." in tensor.name)
        active += int(packed * used / n_experts) if "_exps." in tensor.name and n_experts else int(packed)
    per_value = _KV_BYTES[kv_type]
    per_token = [int(n * per_value) for n in kv_numbers(config)]
    kv = sum(per_token) * n_ctx
    row = 3 * config["n_embd"] + 4 * max(config["n_heads"]) * max(config["key_dims"]) + 2 * max(config["n_ff"])
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
        "expert_bytes": experts,
        "gpu": _core.gpu_plan(str(path), budget),
        "kv_bytes": kv,
        "kv_bytes_per_token": sum(per_token),
        "kv_formula": f"{config['n_layers']} layers x kv heads x (key + value dims) x {per_value:g} bytes x {n_ctx} tokens",
        "buffer_bytes": buffers,
        "total_bytes": total,
        "available_bytes": available,
        "fits": total <= available,
        "advice": advice,
    }


def best_context(estimate: dict[str, Any], weight_bytes: int) -> int:
    """The longest context, in tokens, that leaves room for weights of that size; 0 where they do not fit at all."""
    room: int = estimate["available_bytes"] - weight_bytes - estimate["buffer_bytes"]
    longest: int = room // max(1, estimate["kv_bytes_per_token"])
    return max(0, min(int(estimate["n_ctx_train"]), longest))


def expected_speed(estimate: dict[str, Any], weight_bytes: int, bandwidth: float) -> float:
    """Tokens a second at the beginning of an answer, were nothing but memory in the way. bandwidth: bytes a second."""
    share: float = estimate["active_bytes"] / max(1, estimate["weight_bytes"])
    return bandwidth / max(1.0, weight_bytes * share)
