"""The tokenizer that the rest of halfbyte uses, whatever the vocabulary's kind."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError
from halfbyte.tokenizer.from_hf import library_errors, load_pipeline, read_folder
from halfbyte.tokenizer.models import SPACE, build, pretokenizer_of
from halfbyte.tokenizer.pretokenizers import PreTokenizer
from halfbyte.tokenizer.stream import TextStream
from halfbyte.tokenizer.vocabulary import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Vocabulary


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in of each byte (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_alphabet()


class Tokenizer:
    """Encodes and decodes with a model file's vocabulary. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary, tokenizer_json: Path | None = None) -> None:
        self._model = vocabulary.model
        # A folder's own pipeline cuts out special tokens and puts space prefixes by itself.
        self._own_pipelines = tokenizer_json and {flag: load_pipeline(tokenizer_json, flag) for flag in (False, True)}
        self._pipeline = self._own_pipelines[False] if self._own_pipelines else build(vocabulary)
        has_prefix = self._model in ("llama", "t5") and vocabulary.flag("add_space_prefix", True)
        self._space_prefix = self._model == "llama" and has_prefix  # Unigram's pipeline puts its own
        self._first_has_space = self._model == "bert" or has_prefix
        pre = pretokenizer_of(vocabulary) if self._model in ("gpt2", "gemma4") else PreTokenizer((), byte_level=False)
        self._byte_level = pre.byte_level
        #: Whether prompts of this model begin with BOS (end with EOS).
        self.add_bos = vocabulary.flag("add_bos_token", self._model in ("llama", "bert") or pre.add_bos)
        self.add_bos |= self._model == "gemma4"  # files of it that say otherwise are wrong
        self.add_eos = vocabulary.flag("add_eos_token", self._model == "t5")
        self._add_sep = vocabulary.flag("add_sep_token", self._model == "bert" or pre.add_sep)
        self._vocabulary = vocabulary.without_rules()

    @classmethod
    def from_gguf(cls, path: str | Path) -> Tokenizer:
        """From a GGUF file; one that holds a vocabulary only will do."""
        return cls.from_metadata(_core.GgufFile(str(path)).metadata)

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> Tokenizer:
        """From the tokenizer.ggml.* keys of a file's metadata."""
        return cls(Vocabulary.from_metadata(metadata))

    @classmethod
    def from_hf(cls, folder: str | Path) -> Tokenizer:
        """From a Hugging Face model's folder: tokenizer.json (or tokenizer.model) and tokenizer_config.json."""
        return cls(*read_folder(Path(folder)))

    # Identity -----------------------------------------------------------------------------------------------------

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return len(self._vocabulary.tokens)

    @property
    def bos_id(self) -> int | None:
        """The id that begins a text, or None."""
        return self._vocabulary.special("bos")

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text, or None."""
        return self._vocabulary.special("eos")

    @property
    def end_ids(self) -> list[int]:
        """Every id that ends generation (eos, end of turn, end of message)."""
        return self._vocabulary.end_ids

    @property
    def suppressed_ids(self) -> list[int]:
        """Ids that must never be drawn, such as placeholders of pictures."""
        return self._vocabulary.suppressed_ids

    def special_id(self, name: str) -> int | None:
        """The id that the file gives for a purpose (bos, eos, fim_pre, fim_suf, fim_mid, ...), or None."""
        return self._vocabulary.special(name)

    @property
    def pieces(self) -> list[str]:
        """Every id's piece as the file spells it."""
        return self._vocabulary.tokens

    def piece(self, token: int) -> str:
        """The piece of an id as the file spells it."""
        return self._vocabulary.tokens[self._checked(token)]

    def id_of(self, piece: str) -> int | None:
        """The id of a piece, or None."""
        return self._vocabulary.ids.get(piece)

    def is_control(self, token: int) -> bool:
        """True for tokens that structure text (BOS, turn markers) and are not text."""
        return self._vocabulary.kinds[self._checked(token)] in (CONTROL, UNKNOWN)

    # Encoding -----------------------------------------------------------------------------------------------------

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        add_bos: put BOS (and EOS, SEP) where this model wants them; False puts none.
        parse_special: control tokens spelled in the text become those tokens. Leave it False for text that a user
        wrote, so that it cannot forge turns.
        """
        text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        ids: list[int] = []
        if self._own_pipelines:
            ids = self._words(text, self._own_pipelines[parse_special])
            return self._with_ends(ids) if add_bos else ids
        at_start = True  # of the text, or just after a special token
        for part in self._partition(text, parse_special):
            if isinstance(part, int):
                ids.append(part)
                at_start = True
                continue
            if self._space_prefix and at_start:
                part = " " + part
            ids += self._words(part, self._pipeline)
            at_start = False
        return self._with_ends(ids) if add_bos else ids

    def _words(self, text: str, pipeline: tokenizers.Tokenizer) -> list[int]:
        with library_errors("The vocabulary's tables are damaged"):  # a precompiled_charsmap, say: the library panics
            return list(pipeline.encode(text, add_special_tokens=False).ids)

    def _with_ends(self, ids: list[int]) -> list[int]:
        bos, eos, sep = self.bos_id, self.eos_id, self._vocabulary.special("seperator")
        if self.add_bos and bos is not None:
            ids.insert(0, bos)
        if self._add_sep and (sep is not None or eos is not None):
            ids.append(sep if sep is not None else eos)  # type: ignore[arg-type]
        elif self.add_eos and eos is not None:
            ids.append(eos)
        return ids

    @cached_property
    def _special_pieces(self) -> list[tuple[str, int, bool]]:
        """(piece, id, is_control) of tokens that are cut out of text before anything else, longest first."""
        kinds = self._vocabulary.kinds
        found = [
            (token, i, kinds[i] != USER_DEFINED)
            for token, i in self._vocabulary.ids.items()
            if kinds[i] in (CONTROL, USER_DEFINED, UNKNOWN) and token
        ]
        return sorted(found, key=lambda item: (-len(item[0]), item[1]))

    def _strips_right(self, token: int) -> bool:
        # Phi-3's markers swallow the white space after them.
        name = str(self._vocabulary.metadata.get("general.name", "")).lower()
        if "phi-3" not in name and "phi3" not in name:
            return False
        piece = self._vocabulary.tokens[token]
        return piece == "</s>" or (
            self._vocabulary.kinds[token] == CONTROL and piece not in ("<s>", "<unk>", "<|endoftext|>")
        )

    def _partition(self, text: str, parse_special: bool) -> list[str | int]:
        parts: list[str | int] = [text] if text else []
        characters = set(text)
        for piece, token, is_control in self._special_pieces:
            if (is_control and not parse_special) or piece[0] not in characters or piece not in text:
                continue
            cut: list[str | int] = []
            for part in parts:
                if isinstance(part, int) or piece not in part:
                    cut.append(part)
                    continue
                pieces = part.split(piece)
                for i, between in enumerate(pieces):
                    if i > 0:
                        cut.append(token)
                        if self._strips_right(token):
                            between = between.lstrip()
                    if between:
                        cut.append(between)
            parts = cut
        return parts

    # Decoding -----------------------------------------------------------------------------------------------------

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; of a control token its name."""
        return self._bytes_of(self._checked(token))

    def _bytes_of(self, token: int) -> bytes:
        piece, kind = self._vocabulary.tokens[token], self._vocabulary.kinds[token]
        if kind in (CONTROL, UNKNOWN):
            return piece.encode("utf-8", "surrogateescape")
        if kind == BYTE and len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        if self._byte_level:
            if kind == USER_DEFINED:
                return piece.encode("utf-8", "surrogateescape")
            try:
                return bytes([_BYTES[c] for c in piece])
            except KeyError:
                return piece.encode("utf-8", "surrogateescape")
        return piece.replace(SPACE, " ").encode("utf-8", "surrogateescape")

    @cached_property
    def output_bytes(self) -> list[bytes]:
        """Bytes of every id as they appear in an answer: nothing for control tokens."""
        kinds = self._vocabulary.kinds
        return [b"" if kinds[i] in (CONTROL, UNKNOWN) else self._bytes_of(i) for i in range(self.n_vocab)]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of ids. skip_special leaves control tokens out. Bytes that are no UTF-8 become U+FFFD."""
        data = bytearray()
        for token in ids:
            token = self._checked(token)
            if self._vocabulary.kinds[token] in (CONTROL, UNKNOWN) and (
                skip_special or (not data and token == self.bos_id)
            ):
                continue
            data += self._bytes_of(token)
        text = data.decode("utf-8", "replace")
        return text.removeprefix(" ") if self._first_has_space else text

    def stream(self, *, at_start: bool = False) -> TextStream:
        """An incremental decoder for bytes of an answer; at_start strips the space that a text's first word carries."""
        return TextStream(strip_first_space=at_start and self._first_has_space)

    def _checked(self, token: int) -> int:
        if not 0 <= token < self.n_vocab:
            raise InvalidArgumentError(f"Token id {token} is outside the vocabulary of {self.n_vocab}.")
        return token
