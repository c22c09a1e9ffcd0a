"""Draws bench/results/*.json of compare.py: speeds of each engine, and how near halfbyte comes to the machine's bounds.

python bench/plots.py bench/results/NAME.json [...]      needs pip install 'halfbyte[bench]'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(path: Path) -> Path:
    """A row for each file, a column for each test: bars of medians, whiskers from the slowest to the fastest run."""
    data = json.loads(path.read_text())
    files: dict[str, list[dict[str, Any]]] = data["results"]
    tests = sorted({test for rows in files.values() for row in rows for test in row["runs"]}, key=order)
    figure, grid = plt.subplots(len(files), len(tests), figsize=(3.6 * len(tests), 2.2 * len(files)), squeeze=False)
    for line, (name, rows) in zip(grid, files.items(), strict=True):
        for axis, test in zip(line, tests, strict=True):
            bars(axis, rows, test)
            axis.set_title(f"{name}: {test}, tokens/s", fontsize=8)
    machine = data["machine"]
    figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bandwidth_gb_s']} GB/s")
    figure.tight_layout()
    out = path.with_suffix(".png")
    figure.savefig(out, dpi=90)
    return out


def order(test: str) -> tuple[int, str]:
    return ("pp", "tg", "batch").index(test.split()[0]), test


def bars(axis: Any, rows: list[dict[str, Any]], test: str) -> None:
    rows = [row for row in rows if test in row["runs"]]
    medians = [row["tokens_per_second"][test] for row in rows]
    low = [m - min(row["runs"][test]) for m, row in zip(medians, rows, strict=True)]
    high = [max(row["runs"][test]) - m for m, row in zip(medians, rows, strict=True)]
    axis.barh([row["peer"] for row in rows], medians, xerr=[low, high])
    axis.invert_yaxis()
    axis.tick_params(labelsize=7)


def draw_roofline(path: Path) -> Path:
    """Decode and prefill of each file on one chart: operations per byte of weights against operations per second."""
    data = json.loads(path.read_text())
    bandwidth, rate = data["machine"]["memory_bandwidth_gb_s"], data["machine"]["dot_rate_gop_s"]
    figure, axis = plt.subplots(figsize=(7, 4.5))
    intensities = [2.0**i for i in range(1, 13)]
    axis.plot(intensities, [min(bandwidth * x, rate) for x in intensities], color="black", label="memory, integer dots")
    for name, rows in data["results"].items():
        ours, speeds = rows[0], rows[0]["tokens_per_second"]
        gigabytes = ours["weight_bytes"] / 1e9
        # Packed weights hold about 4.5 bits: 3.5 operations a byte and token.
        points = {"tg 64": 1, "batch 8 32": 8, "batch 32 32": 32, "pp 512": 512}
        xs = [3.5 * n for test, n in points.items() if test in speeds]
        ys = [speeds[test] * gigabytes * 3.5 for test in points if test in speeds]
        axis.plot(xs, ys, marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xlabel("operations for each byte of weights")
    axis.set_ylabel("GOP/s")
    axis.legend(fontsize=8)
    figure.tight_layout()
    out = path.with_name(path.stem + "-roofline.png")
    figure.savefig(out, dpi=100)
    return out


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(draw(Path(name)))
        print(draw_roofline(Path(name)))
