"""Measure how well a model predicts a text, or how far it is from a base model.

halfbyte perplexity -m model.gguf -f text.txt -c 512
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from halfbyte.cli.common import add_model_arguments, bar, load_model, print_json, read_text
from halfbyte.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("-f", "--file", help="text file (-: standard input)")
    parser.add_argument("--chunks", type=int, default=-1, metavar="N", help="use the first N chunks only (-1: all)")
    parser.add_argument("--save-logits", metavar="FILE", help="save what the model predicts, as a base to compare with")
    parser.add_argument(
        "--kl-divergence", action="store_true", help="compare with the base instead of scoring a text (no -f)"
    )
    parser.add_argument("--kl-divergence-base", metavar="FILE", help="the base model's saved logits")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    if arguments.kl_divergence:
        return _compare(arguments)
    if arguments.file is None or arguments.kl_divergence_base:
        raise InvalidArgumentError(
            "perplexity takes -f TEXT, or --kl-divergence --kl-divergence-base FILE.",
            hint="--save-logits makes the base file.",
        )
    return _score(arguments)


def _score(arguments: argparse.Namespace) -> int:
    """llama-perplexity's method: chunks of n_ctx tokens, BOS put first where the model wants it, the tokens of each
    chunk's second half scored."""
    from halfbyte.quantize.divergence import LogitsWriter

    text = read_text(arguments.file)
    n_ctx = arguments.ctx_size or 512
    if n_ctx < 4:
        raise InvalidArgumentError(f"-c {n_ctx}: chunks of at least 4 tokens are needed.")
    arguments.ctx_size = n_ctx
    with ExitStack() as stack:
        llm = stack.enter_context(load_model(arguments, prefix_cache=False))
        tokens = llm.tokenize(text)
        n_chunks = len(tokens) // n_ctx
        if arguments.chunks >= 0:
            n_chunks = min(n_chunks, arguments.chunks)
        if n_chunks < 1:
            raise InvalidArgumentError(
                f"The text has {len(tokens)} tokens; at least {n_ctx} are needed.",
                hint="Give a longer text or a smaller -c.",
            )
        saved = None
        if arguments.save_logits:
            saved = stack.enter_context(
                LogitsWriter(arguments.save_logits, tokens, n_ctx, llm.config["n_vocab"], n_chunks)
            )
        nll, n_scored = 0.0, 0
        for chunk in _chunks(llm, tokens, n_ctx, n_chunks, "Perplexity"):
            if saved is None:
                # logprobs[j] is of token j + 1: the second half's tokens are n_ctx/2 + 1 and on
                scored = llm.logprobs(chunk)[n_ctx // 2 :]
            else:
                scored = saved.add(llm.forward(chunk)[n_ctx // 2 : -1], chunk[n_ctx // 2 + 1 :])
            nll -= float(scored.sum(dtype="float64"))
            n_scored += len(scored)
    mean = nll / n_scored
    if arguments.json:
        print_json({"perplexity": math.exp(mean), "nll": mean, "chunks": n_chunks, "tokens": n_scored})
    else:
        print(f"perplexity {math.exp(mean):.4f} over {n_chunks} chunks of {n_ctx} ({n_scored} tokens scored)")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from halfbyte.quantize.divergence import Divergence, LogitsReader

    if not arguments.kl_divergence_base or arguments.file or arguments.save_logits:
        raise InvalidArgumentError(
            "--kl-divergence compares with the text of --kl-divergence-base FILE, and takes neither -f nor --save-logits."
        )
    base = LogitsReader(arguments.kl_divergence_base)
    n_ctx = arguments.ctx_size = base.n_ctx
    n_chunks = base.n_chunks if arguments.chunks < 0 else min(arguments.chunks, base.n_chunks)
    result = Divergence()
    with load_model(arguments, prefix_cache=False) as llm:
        if llm.config["n_vocab"] != base.n_vocab:
            raise InvalidArgumentError(
                f"The model has {llm.config['n_vocab']} tokens, the base {base.n_vocab}.",
                hint="Compare with a base model of the same vocabulary.",
            )
        tokens = base.tokens.tolist()
        for i, chunk in enumerate(_chunks(llm, tokens, n_ctx, n_chunks, "Comparing")):
            targets = np.asarray(chunk[n_ctx // 2 + 1 :], np.int32)
            result.add(base.chunk(i), llm.forward(chunk)[n_ctx // 2 : -1], targets)
    facts = {"chunks": n_chunks, **result.summary()}
    if arguments.json:
        print_json(facts)
        return 0
    print(f"perplexity       {facts['perplexity']:.4f} (base {facts['base_perplexity']:.4f})")
    print(f"KL divergence    {facts['mean_kl_divergence']:.6f} ± {facts['mean_kl_divergence_error']:.6f}")
    print("  percentiles    " + "  ".join(f"{p}%: {v:.4f}" for p, v in facts["kl_divergence_percentiles"].items()))
    print(f"  largest        {facts['max_kl_divergence']:.4f}")
    print(f"same top token   {100 * facts['same_top_token']:.2f} %")
    print(f"RMS change of p  {100 * facts['rms_probability_change']:.3f} %")
    return 0


def _chunks(llm: Any, tokens: list[int], n_ctx: int, n_chunks: int, title: str) -> Iterator[list[int]]:
    bos = llm.tokenizer.bos_id if llm.tokenizer.add_bos else None
    with bar(title, unit_bytes=False) as advance:
        for i in range(n_chunks):
            chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
            if bos is not None:
                chunk[0] = bos
            yield chunk
            advance(i + 1, n_chunks)
