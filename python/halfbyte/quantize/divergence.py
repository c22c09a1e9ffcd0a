"""How far a model's predictions are from a base model's: saved logits in llama-perplexity's format, and statistics."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from halfbyte.beside import written_beside
from halfbyte.errors import FileError, FormatError

_MAGIC = b"_logits_"
# Log probabilities are stored as 16-bit steps below the most likely token's, at most this far.
_DEEPEST = 16.0

Floats = npt.NDArray[np.float32]


def log_softmax(logits: Floats) -> Floats:
    """Of each row: float32, the sum in double."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    sums = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    return np.asarray(shifted - np.log(sums), np.float32)


class LogitsWriter:
    """Writes scored rows chunk by chunk; the file appears when the context ends without an error."""

    def __init__(self, path: str | Path, tokens: list[int], n_ctx: int, n_vocab: int, n_chunks: int) -> None:
        with ExitStack() as stack:
            new = stack.enter_context(written_beside(Path(path)))
            self._file: BinaryIO = stack.enter_context(new.open("wb"))
            self._stack = stack.pop_all()
        self._file.write(_MAGIC + struct.pack("<iii", n_ctx, n_vocab, n_chunks))
        self._file.write(np.asarray(tokens[: n_ctx * n_chunks], np.int32).tobytes())

    def add(self, logits: Floats, targets: list[int]) -> Floats:
        """Saves a chunk's scored rows: logits (n, n_vocab) and the tokens that followed; their log p is returned."""
        rows = log_softmax(logits)
        highest = rows.max(axis=1)
        lowest = np.maximum(rows.min(axis=1), highest - np.float32(_DEEPEST))
        scale = ((highest - lowest) / np.float32(65535)).astype(np.float32)
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
        steps = np.clip((rows - lowest[:, None]) * inverse[:, None] + 0.5, 0, 65535).astype(np.uint16)
        # A row is its scale and lowest value as f32 in four 16-bit words, then the steps, padded to whole pairs.
        n, n_vocab = rows.shape
        out = np.zeros((n, 4 + 2 * ((n_vocab + 1) // 2)), np.uint16)
        out[:, :2] = scale[:, None].view(np.uint16)
        out[:, 2:4] = lowest.astype(np.float32)[:, None].view(np.uint16)
        out[:, 4 : 4 + n_vocab] = steps
        self._file.write(out.tobytes())
        return rows[np.arange(n), targets]

    def __enter__(self) -> LogitsWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


class LogitsReader:
    """Saved logits: n_ctx, n_vocab, n_chunks, tokens, and the log probabilities of each chunk's scored rows."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                header = file.read(20)
                size = self.path.stat().st_size
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}.", hint="Check the path.") from None
        if header[:8] != _MAGIC or len(header) < 20:
            raise FormatError(f"{path}: no saved logits.", hint="Make them with halfbyte perplexity --save-logits.")
        self.n_ctx, self.n_vocab, self.n_chunks = struct.unpack("<iii", header[8:])
        words = 4 + 2 * ((self.n_vocab + 1) // 2)
        self._rows = self.n_ctx - 1 - self.n_ctx // 2
        expected = 20 + self.n_chunks * (4 * self.n_ctx + 2 * words * self._rows)
        if min(self.n_ctx, self.n_vocab, self.n_chunks) < 1 or size != expected:
            raise FormatError(f"{path}: {size} bytes; its header asks for {expected}.", hint="Make the file again.")
        self.tokens = np.fromfile(self.path, np.int32, self.n_ctx * self.n_chunks, offset=20)
        start = 20 + 4 * self.n_ctx * self.n_chunks
        self._data = np.memmap(self.path, np.uint16, "r", start, (self.n_chunks, self._rows, words))

    def chunk(self, index: int) -> Floats:
        """Log probabilities of a chunk's scored rows: (n_ctx - 1 - n_ctx // 2, n_vocab)."""
        rows = np.asarray(self._data[index])
        scale, lowest = rows[:, :2].copy().view(np.float32), rows[:, 2:4].copy().view(np.float32)
        return rows[:, 4 : 4 + self.n_vocab].astype(np.float32) * scale + lowest


@dataclass
class Divergence:
    """Statistics over scored rows, collected chunk by chunk."""

    kl: list[Floats] = field(default_factory=list)
    same_top: int = 0
    nll: list[Floats] = field(default_factory=list)
    base_nll: list[Floats] = field(default_factory=list)
    probability_changes: list[Floats] = field(default_factory=list)

    def add(self, base: Floats, logits: Floats, targets: npt.NDArray[np.int32]) -> None:
        """base: log probabilities; logits of the same rows by the other model; targets: the tokens that followed."""
        for first in range(0, len(targets), 32):  # bounded memory for large vocabularies
            part = slice(first, first + 32)
            p, q = base[part], log_softmax(logits[part])
            # What was saved at the floor says only "less than this"; over a large vocabulary it would add up.
            terms = np.where(p > -_DEEPEST, np.exp(p) * (p - q), np.float32(0))
            self.kl.append(np.asarray(terms.sum(axis=1, dtype=np.float64), np.float32))
            self.same_top += int(np.count_nonzero(p.argmax(axis=1) == q.argmax(axis=1)))
            rows = np.arange(len(q))
            ours, theirs = q[rows, targets[part]], p[rows, targets[part]]
            self.nll.append(-ours)
            self.base_nll.append(-theirs)
            self.probability_changes.append(np.asarray(np.exp(ours) - np.exp(theirs)))

    def summary(self) -> dict[str, Any]:
        """The figures: perplexities, KL divergence (mean, its error, percentiles), top-1 agreement, change of p."""
        kl, change = np.concatenate(self.kl), np.concatenate(self.probability_changes)
        n = len(kl)
        nll, base_nll = (float(np.concatenate(each).mean(dtype=np.float64)) for each in (self.nll, self.base_nll))
        percentiles = {f"{p:g}": float(np.percentile(kl, p)) for p in (0.1, 1, 5, 10, 50, 90, 95, 99, 99.9)}
        return {
            "tokens": n,
            "perplexity": float(np.exp(nll)),
            "base_perplexity": float(np.exp(base_nll)),
            "mean_kl_divergence": float(kl.mean()),
            "mean_kl_divergence_error": float(kl.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0,
            "max_kl_divergence": float(kl.max()),
            "kl_divergence_percentiles": percentiles,
            "same_top_token": self.same_top / n,
            "rms_probability_change": float(np.sqrt(np.mean(change.astype(np.float64) ** 2))),
        }
