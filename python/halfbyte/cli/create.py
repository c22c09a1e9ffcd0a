"""Make a model of the store from a Modelfile.

halfbyte create mine -f Modelfile
"""

from __future__ import annotations

import argparse
from pathlib import Path

from halfbyte.cli.common import download_progress, read_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the new model's name")
    parser.add_argument("-f", "--file", default="Modelfile", help="the Modelfile (./Modelfile; -: standard input)")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.hub import checked_name
    from halfbyte.hub.modelfile import create_model, open_base, parse_modelfile

    name = checked_name(arguments.name)
    modelfile = parse_modelfile(read_text(arguments.file))
    folder = Path.cwd() if arguments.file == "-" else Path(arguments.file).resolve().parent
    with download_progress() as tell:
        base = open_base(modelfile, folder, tell)
    model = create_model(name, modelfile, base, folder)
    print(f"{model.name} created from {modelfile.base}")
    return 0
