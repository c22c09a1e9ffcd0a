"""Strategies for damaged files: JSON documents with a part changed or lost, bytes with some changed, lost or moved."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Deep, huge, of the wrong type, of no number's value: what readers take for granted that nobody writes.
JUNK = st.sampled_from(
    [
        None, True, -1, 0, 1, 3.5, 1 << 31, 1 << 63, 1 << 80, 10**400, 1e308, float("nan"), "", "x", "9" * 400, "\x00", "é\ud800",
        [], {}, [[]], {"": {}}, [1, "a", None], {"type": "Sequence"}, {"content": []}, {"id": 1 << 31}, ["a"] * 300,
    ]
)  # fmt: skip


@st.composite
def damaged_json(draw: st.DrawFn, document: Any) -> str:
    """A document with one to three nodes replaced, removed, or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        node, parents = document, []
        while isinstance(node, (dict, list)) and node and (not parents or draw(st.integers(0, 3))):
            keys = list(node) if isinstance(node, dict) else range(min(len(node), 30))
            key = draw(st.sampled_from(list(keys)))
            parents.append((node, key))
            node = node[key]
        if not parents:
            return json.dumps(draw(JUNK))
        parent, key = parents[-1]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "replace":
            parent[key] = copy.deepcopy(draw(JUNK))
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(draw(st.sampled_from(parent))))
        else:
            parent[f"{key}{draw(st.sampled_from(['', '_id', 's']))}"] = copy.deepcopy(draw(JUNK))
    return json.dumps(document)


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with one to four places changed, cut out, moved, or made large numbers."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "number", "cut", "insert", "end", "move"])):
            case "flip":
                data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :] if data else b""
            case "number":
                number = draw(st.sampled_from([0, 1, 1 << 31, 1 << 62, (1 << 64) - 1]))
                data = data[:at] + number.to_bytes(8, "little") + data[at + 8 :]
            case "cut":
                data = data[:at] + data[at + draw(st.integers(1, 20)) :]
            case "insert":
                data = data[:at] + draw(st.binary(min_size=1, max_size=9)) + data[at:]
            case "end":
                data = data[:at]
            case "move":
                to = draw(st.integers(0, len(data)))
                data = data[:to] + data[at : at + 40] + data[to:]
    return data
