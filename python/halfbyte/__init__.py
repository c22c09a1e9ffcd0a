"""halfbyte: an inference engine for quantized language models."""

from halfbyte._core import __version__
from halfbyte.errors import HalfbyteError
from halfbyte.llm import LLM
from halfbyte.outputs import Logprob, Output, Piece, Timing, Usage
from halfbyte.params import SamplingParams

__all__ = ["LLM", "HalfbyteError", "Logprob", "Output", "Piece", "SamplingParams", "Timing", "Usage", "__version__"]
