"""Model folders of Hugging Face's libraries: run as they are, converted to GGUF, and written back."""

from halfbyte.convert.checkpoint import is_model_folder
from halfbyte.convert.load import load_folder
from halfbyte.convert.plan import Plan, plan_folder
from halfbyte.convert.tensors import Planned

__all__ = ["Plan", "Planned", "is_model_folder", "load_folder", "plan_folder"]
