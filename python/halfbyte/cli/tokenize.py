"""Print the token ids of a text from standard input.

echo "Some text" | halfbyte tokenize -m smollm2 --json
"""

from __future__ import annotations

import argparse
import json
import sys

from halfbyte.tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", required=True, help="a .gguf file (a vocabulary is enough) or a model's name")
    parser.add_argument("--no-bos", action="store_true", help="add no BOS and EOS")
    parser.add_argument("--no-parse-special", action="store_true", help="control tokens in the text are text")
    parser.add_argument("--json", action="store_true", help="print a JSON list of ids")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import resolve_model

    tokenizer = Tokenizer.from_gguf(resolve_model(arguments.model))
    text = sys.stdin.buffer.read().decode("utf-8", "replace")
    ids = tokenizer.encode(text, add_bos=not arguments.no_bos, parse_special=not arguments.no_parse_special)
    if arguments.json:
        print(json.dumps(ids))
        return 0
    for i in ids:
        print(f"{i:>7} {tokenizer.piece(i)!r}")
    return 0
