"""Draws bench/results/*.json: tokens per second of each engine, one picture a file.

python bench/plots.py bench/results/NAME.json [...]      needs pip install 'halfbyte[bench]'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(path: Path) -> Path:
    """Bars of medians, whiskers from the slowest to the fastest run; the picture lies beside the file."""
    data = json.loads(path.read_text())
    tests = list(data["results"][0]["tokens_per_second"])
    figure, axes = plt.subplots(1, len(tests), figsize=(5 * len(tests), 3))
    for axis, test in zip(axes, tests, strict=True):
        names = [row["peer"] for row in data["results"]]
        medians = [row["tokens_per_second"][test] for row in data["results"]]
        low = [m - min(row["runs"][test]) for m, row in zip(medians, data["results"], strict=True)]
        high = [max(row["runs"][test]) - m for m, row in zip(medians, data["results"], strict=True)]
        axis.barh(names, medians, xerr=[low, high])
        axis.invert_yaxis()
        axis.set_title(f"{test}, tokens/s")
    figure.suptitle(f"{path.stem}, {data['machine']['cpu']}, {data['machine']['cores']} cores")
    figure.tight_layout()
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=110)
    return out


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(draw(Path(name)))
