"""halfbyte: an inference engine for quantized language models."""

from halfbyte._core import __version__
from halfbyte.errors import HalfbyteError

__all__ = ["HalfbyteError", "__version__"]
