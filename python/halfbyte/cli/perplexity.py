"""Measure how well a model predicts a text."""

from __future__ import annotations

import argparse
import math

from halfbyte.cli.common import add_model_arguments, bar, load_model, print_json, read_text
from halfbyte.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, required=True)
    parser.add_argument("-f", "--file", required=True, help="text file (-: standard input)")
    parser.add_argument("--chunks", type=int, default=-1, metavar="N", help="use the first N chunks only (-1: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """llama-perplexity's method: chunks of n_ctx tokens, BOS put first where the model wants it, the tokens of each
    chunk's second half scored."""
    text = read_text(arguments.file)
    n_ctx = arguments.ctx_size or 512
    if n_ctx < 4:
        raise InvalidArgumentError(f"-c {n_ctx}: chunks of at least 4 tokens are needed.")
    arguments.ctx_size = n_ctx
    with load_model(arguments, prefix_cache=False) as llm:
        tokens = llm.tokenize(text)
        n_chunks = len(tokens) // n_ctx
        if arguments.chunks >= 0:
            n_chunks = min(n_chunks, arguments.chunks)
        if n_chunks < 1:
            raise InvalidArgumentError(
                f"The text has {len(tokens)} tokens; at least {n_ctx} are needed.",
                hint="Give a longer text or a smaller -c.",
            )
        bos = llm.tokenizer.bos_id if llm.tokenizer.add_bos else None
        nll, n_scored = 0.0, 0
        with bar("Perplexity", unit_bytes=False) as advance:
            for i in range(n_chunks):
                chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
                if bos is not None:
                    chunk[0] = bos
                # logprobs[j] is of token j + 1: the second half's tokens are n_ctx/2 + 1 and on
                scored = llm.logprobs(chunk)[n_ctx // 2 :]
                nll -= float(scored.sum(dtype="float64"))
                n_scored += len(scored)
                advance(i + 1, n_chunks)
    mean = nll / n_scored
    if arguments.json:
        print_json({"perplexity": math.exp(mean), "nll": mean, "chunks": n_chunks, "tokens": n_scored})
    else:
        print(f"perplexity {math.exp(mean):.4f} over {n_chunks} chunks of {n_ctx} ({n_scored} tokens scored)")
    return 0
