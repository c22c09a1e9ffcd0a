"""Show what a model file holds.

halfbyte show smollm2
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from halfbyte import _core
from halfbyte.cli.common import human_bytes, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a .gguf file or a model's name")
    parser.add_argument("--modelfile", action="store_true", help="print the model's Modelfile")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import open_model
    from halfbyte.hub.modelfile import write_modelfile

    files = open_model(arguments.model)
    path = files.path
    if arguments.modelfile:
        print(write_modelfile(files.card, str(path)), end="")
        return 0
    file = _core.GgufFile(str(path))
    metadata: dict[str, Any] = file.metadata
    tensors = file.tensors
    types = Counter[str]()
    for tensor in tensors:
        types[tensor.format] += tensor.n_bytes
    total = sum(types.values())
    facts: dict[str, Any] = {
        "path": str(path),
        "version": file.version,
        "n_tensors": len(tensors),
        "tensor_bytes": total,
        "types": dict(types.most_common()),
        "metadata": {k: _short(v) for k, v in metadata.items()},
    }
    if arguments.json:
        facts["tensors"] = [{"name": t.name, "type": t.format, "shape": list(t.shape)} for t in tensors]
        print_json(facts)
        return 0
    print(f"{path}: GGUF v{file.version}, {len(tensors)} tensors, {human_bytes(total)}")
    for name, n_bytes in types.most_common():
        print(f"  {name:<8} {human_bytes(n_bytes):>10}  {100 * n_bytes / max(1, total):5.1f} %")
    for key, value in facts["metadata"].items():
        text = str(value).replace("\n", "\\n")
        print(f"{key} = {text if len(text) <= 160 else text[:157] + '...'}")
    return 0


def _short(value: Any) -> Any:
    """Long arrays by their length."""
    if isinstance(value, list) and len(value) > 16:
        return f"[{len(value)} entries]"
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
