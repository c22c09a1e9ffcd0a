"""What Hugging Face calls the tensors and numbers of each architecture, and what GGUF calls them: the one table.

Read forwards it turns a folder into a model or a GGUF file, backwards a GGUF file into a folder.
"""

from __future__ import annotations

from halfbyte.convert.dense import DENSE
from halfbyte.convert.family import Family
from halfbyte.convert.gemma3n import GEMMA3N
from halfbyte.convert.gemma4 import GEMMA4
from halfbyte.convert.mixtures import MIXTURES
from halfbyte.convert.own_code import OWN_CODE

FAMILIES: tuple[Family, ...] = (*DENSE, GEMMA3N, GEMMA4, *OWN_CODE, *MIXTURES)


def family_of_type(model_type: str) -> Family | None:
    """The family of config.json's model_type, or None."""
    return next((f for f in FAMILIES if model_type in f.model_types), None)


def family_of_arch(arch: str) -> Family | None:
    """The (first) family of general.architecture, or None."""
    return next((f for f in FAMILIES if f.arch == arch), None)
