"""Smaller model files: which tensor gets which type, what it loses, and importance matrices."""

from halfbyte.quantize.importance import Importance
from halfbyte.quantize.mixes import MIXES
from halfbyte.quantize.plan import Choice, Plan, plan_quantization
from halfbyte.quantize.write import write_plan

__all__ = ["MIXES", "Choice", "Importance", "Plan", "plan_quantization", "write_plan"]
