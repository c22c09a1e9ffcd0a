"""Make an importance matrix: which inputs of each tensor matter, from what a model reads.

halfbyte imatrix -m model-f16.gguf -f text.txt -o imatrix.gguf
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from halfbyte.cli.common import bar, print_json, read_text
from halfbyte.errors import InvalidArgumentError

# How often a long run saves what it has, so that a kill loses little.
_SAVE_EVERY_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", help="a .gguf file or a model's name (not needed to merge)")
    parser.add_argument("-f", "--file", help="text file to read (-: standard input)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the .gguf to write")
    parser.add_argument(
        "--in-file", action="append", default=[], metavar="FILE", help="importance matrices to merge in (repeatable)"
    )
    parser.add_argument("-c", "--ctx-size", type=int, default=512, metavar="N", help="tokens of a chunk")
    parser.add_argument("--chunks", type=int, default=-1, metavar="N", help="read N chunks at most (-1: all)")
    parser.add_argument("--parse-special", action="store_true", help="control tokens in the text count as such")
    parser.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="threads (0: all cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Chunks of n_ctx tokens, each read on its own after the model's BOS, as llama-imatrix does. If OUT exists and was
    made from the same text with the same chunks, the run goes on where it stopped."""
    from halfbyte.quantize import Importance

    if (arguments.model is None) != (arguments.file is None) or not (arguments.model or arguments.in_file):
        raise InvalidArgumentError(
            "imatrix takes -m MODEL and -f TEXT, or --in-file to merge.",
            hint="For example: halfbyte imatrix -m model.gguf -f text.txt -o imatrix.gguf",
        )
    result = Importance()
    if arguments.model:
        result = _collect(arguments)
    for path in arguments.in_file:
        result.merge(Importance.load(path))
    result.save(arguments.output)
    facts = {"tensors": len(result.sums), "chunks": result.n_chunks, "chunk_size": result.chunk_size}
    if arguments.json:
        print_json(facts)
    else:
        print(
            f"{arguments.output}: {facts['tensors']} tensors, {facts['chunks']} chunks of {facts['chunk_size']} tokens"
        )
    return 0


def _collect(arguments: argparse.Namespace) -> Any:
    from halfbyte import _core
    from halfbyte.hub import resolve_model
    from halfbyte.quantize import Importance
    from halfbyte.tokenizer import Tokenizer

    n_ctx = arguments.ctx_size
    if n_ctx < 2:
        raise InvalidArgumentError(f"-c {n_ctx}: chunks of at least 2 tokens are needed.")
    path = str(resolve_model(arguments.model))
    tokenizer = Tokenizer.from_metadata(_core.GgufFile(path).metadata)
    tokens = tokenizer.encode(read_text(arguments.file), add_bos=True, parse_special=arguments.parse_special)
    n_chunks = len(tokens) // n_ctx if arguments.chunks < 0 else min(arguments.chunks, len(tokens) // n_ctx)
    if n_chunks < 1:
        raise InvalidArgumentError(
            f"The text has {len(tokens)} tokens; at least {n_ctx} are needed.",
            hint="Give a longer text or a smaller -c.",
        )
    before = Importance(chunk_size=n_ctx)
    if Path(arguments.output).exists():
        found = Importance.load(arguments.output)
        if (found.datasets, found.chunk_size) != ([arguments.file], n_ctx) or found.n_chunks > n_chunks:
            raise InvalidArgumentError(
                f"{arguments.output} exists and was not made from this text with chunks of {n_ctx}.",
                hint="Remove it, or merge it with --in-file into another output.",
            )
        before = found
    if before.n_chunks == n_chunks:
        return before
    with bar("Loading") as advance:
        model = _core.Model.load(path, n_threads=arguments.threads, progress=advance)
    collector = _core.ImportanceCollector(model, n_threads=arguments.threads, n_ctx=n_ctx)
    first, saved = before.n_chunks, time.monotonic()
    with bar("Reading", unit_bytes=False) as advance:
        for i in range(first, n_chunks):
            chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
            if tokenizer.add_bos and tokenizer.bos_id is not None:
                chunk[0] = tokenizer.bos_id
            collector.add(chunk)
            advance(i + 1, n_chunks)
            if time.monotonic() - saved > _SAVE_EVERY_S:
                _with_what_was_read(before, collector, i + 1, arguments.file).save(arguments.output)
                saved = time.monotonic()
    return _with_what_was_read(before, collector, n_chunks, arguments.file)


def _with_what_was_read(before: Any, collector: Any, n_chunks: int, dataset: str) -> Any:
    from halfbyte.quantize import Importance

    now = Importance(datasets=[dataset], n_chunks=n_chunks - before.n_chunks, chunk_size=before.chunk_size)
    now.add(collector.sums())
    merged = Importance(chunk_size=before.chunk_size)
    merged.merge(before)
    merged.merge(now)
    return merged
