"""Text to token ids and back, from the vocabulary inside a model file."""

from halfbyte.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
