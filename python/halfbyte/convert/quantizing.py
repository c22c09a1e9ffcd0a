"""A model to be, its matrices in the types that a mix of the quantize room chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from halfbyte.convert.plan import Plan
from halfbyte.convert.tensors import Array, Planned, is_plain
from halfbyte.quantize import Choice, plan_quantization
from halfbyte.quantize.plan import mix_named
from halfbyte.quantize.write import file_type_facts, quantized


class _Source:
    """A plan as the quantize room reads model files."""

    def __init__(self, plan: Plan) -> None:
        self.metadata: Mapping[str, Any] = plan.metadata
        self.tensors = [_Info(t) for t in plan.tensors]
        self._make = {t.name: t.make for t in plan.tensors}

    def tensor_data(self, name: str) -> Array:
        return np.ascontiguousarray(self._make[name]())


class _Info:
    """A tensor's name, format, and shape with the contiguous axis first."""

    def __init__(self, planned: Planned) -> None:
        self.name, self.format, self.shape = planned.name, planned.format, planned.shape[::-1]


def quantize_plan(plan: Plan, type_name: str) -> Plan:
    """The plan with every tensor in the type that a mix ("q4_k_m", "f16") gives it: what `halfbyte quantize` would make
    of the file that the plan describes, bit for bit. A tensor is quantized from its own rows, when its turn comes.
    """
    source = _Source(plan)
    chosen = plan_quantization(source, mix_named(type_name))

    def planned(old: Planned, choice: Choice) -> Planned:
        if choice.format == old.format:
            return old
        twice = not is_plain(old.format) and not is_plain(choice.format)
        note = f"matrices that were {old.format} already lose twice as {choice.format}" if twice else choice.note
        return replace(old, format=choice.format, make=lambda: quantized(source, choice), note=note or old.note)

    tensors = [planned(old, choice) for old, choice in zip(plan.tensors, chosen.choices, strict=True)]
    return replace(plan, metadata=plan.metadata | file_type_facts(chosen.file_type), tensors=tensors)
