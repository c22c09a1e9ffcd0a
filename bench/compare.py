"""Runs halfbyte and other engines on the same file in the same run, turn by turn, and prints medians and ratios.

python bench/compare.py MODEL.gguf [--peer NAME[=PYTHON] ...] [--level avx2] [--test "tg 32 8192"] [--out x.json]
python bench/compare.py --suite cpu [--peer ...] [--models FOLDER] --out bench/results/cpu.json

A peer runs under the Python that has it (NAME=/path/to/python); without =PYTHON under this one. A peer that does not
start, and a test that a peer does not offer, is reported and left out. --level adds halfbyte held to a lower CPU level.
Tests are those of peers/protocol.py. The suite's files are fetched (aliases) or made (random weights of real shapes).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
MODULES = {
    "halfbyte": "halfbyte_",
    "llama-cpp-python": "llama_cpp_python",
    "xllamacpp": "xllamacpp_",
    "openvino-genai": "openvino_genai_",
}
TESTS = ["pp 512", "tg 64"]
DEEP = ["tg 32 4096", "batch 8 32", "batch 32 32"]


@dataclass(frozen=True)
class SuiteFile:
    """A model of a suite: an alias to fetch, or a shape to make (bench/synthetic.py)."""

    name: str
    source: str
    tests: tuple[str, ...]


SUITES = {
    "cpu": [
        SuiteFile("SmolLM2-135M Q4_1", "smollm2", (*TESTS, *DEEP)),
        SuiteFile("Gemma-3-270M Q4_K_M", "gemma3-270m", (*TESTS, *DEEP)),
        SuiteFile("Qwen2.5-0.5B shape Q4_K_M", "synthetic:qwen2.5-0.5b", (*TESTS, *DEEP)),
        SuiteFile("Llama-3.2-1B shape Q4_K_M", "synthetic:llama-3.2-1b", (*TESTS, *DEEP[1:])),
    ]
}


class Peer:
    """One engine in its own process."""

    def __init__(self, name: str, python: str, model: str, threads: int, n_ctx: int, level: str = "") -> None:
        self.name = f"{name} ({level})" if level else name
        self.runs: dict[str, list[float]] = {}
        script = FOLDER / "peers" / f"{MODULES[name]}.py"
        self._process = subprocess.Popen(
            [python, str(script), model, str(threads), str(n_ctx)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "HALFBYTE_ISA": level} if level else None,
        )  # fmt: skip
        hello = self._answer()
        self.version = hello["version"] + (f" ({level})" if level else "")
        self.weight_bytes = hello.get("weight_bytes")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)  # type: ignore[no-any-return]
        raise RuntimeError("it ended without an answer")

    def measure(self, test: str) -> float | None:
        assert self._process.stdin is not None
        self._process.stdin.write(test + "\n")
        self._process.stdin.flush()
        speed = self._answer()["tokens_per_second"]
        return float(speed) if speed is not None else None

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--suite", choices=SUITES)
    parser.add_argument("--models", default="bench/models", help="folder of the suite's files")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME[=PYTHON]", help=", ".join(MODULES))
    parser.add_argument("--level", action="append", default=[], help="halfbyte at this CPU level too")
    parser.add_argument("--test", action="append", help=f"instead of {TESTS}")
    parser.add_argument("-t", type=int, default=2, help="threads")
    parser.add_argument("-r", type=int, default=5, help="repetitions after a warm-up")
    parser.add_argument("--out", help="write the figures as JSON")
    arguments = parser.parse_args()
    if (arguments.model is None) == (arguments.suite is None):
        parser.error("give a model, or --suite")

    if arguments.suite:
        files = [(f.name, suite_file(f, Path(arguments.models)), list(f.tests)) for f in SUITES[arguments.suite]]
    else:
        files = [(Path(arguments.model).name, arguments.model, arguments.test or TESTS)]
    results = {}
    for name, path, tests in files:
        print(f"\n{name}", flush=True)
        rows = compare(str(path), tests, arguments)
        results[name] = rows
        print_table(rows, tests)
    if arguments.out:
        report = {"command": command_of(arguments), "machine": machine(), "results": results}
        Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n")


def compare(path: str, tests: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every engine's runs of each test on one file, halfbyte first."""
    n_ctx = max(1200, *(sum(map(int, test.split()[1:])) + 64 for test in tests))
    peers = []
    wanted = [("halfbyte", "", level) for level in ["", *arguments.level]]
    wanted += [(*item.partition("=")[::2], "") for item in arguments.peer]
    for name, python, level in wanted:
        try:
            peers.append(Peer(name, python or sys.executable, path, arguments.t, n_ctx, level))
        except (RuntimeError, OSError, KeyError) as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
    for repetition in range(arguments.r + 1):  # the first is a warm-up
        for test in tests:
            for peer in peers:
                speed = peer.measure(test)
                if repetition > 0 and speed is not None:
                    peer.runs.setdefault(test, []).append(speed)
    for peer in peers:
        peer.close()
    return [
        {
            "peer": peer.name, "version": peer.version, "weight_bytes": peer.weight_bytes, "runs": peer.runs,
            "tokens_per_second": {test: statistics.median(runs) for test, runs in peer.runs.items()},
        }
        for peer in peers
    ]  # fmt: skip


def suite_file(file: SuiteFile, folder: Path) -> Path:
    """The file's path; fetched or made when it is not there."""
    kind, _, shape = file.source.partition(":")
    if not shape:
        from halfbyte.hub import resolve_model

        return resolve_model(kind)
    path = folder / f"{shape}-Q4_K_M.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(FOLDER / "synthetic.py"), shape, str(path)], check=True)
    return path


def command_of(arguments: argparse.Namespace) -> str:
    """The command without this machine's folders."""
    what = f"--suite {arguments.suite}" if arguments.suite else Path(arguments.model).name
    options = [f"--peer {item.partition('=')[0]}" for item in arguments.peer]
    options += [f"--level {level}" for level in arguments.level] + [f'--test "{test}"' for test in arguments.test or []]
    return " ".join(["python bench/compare.py", what, *options, f"-t {arguments.t} -r {arguments.r}"])


def print_table(rows: list[dict[str, Any]], tests: list[str]) -> None:
    """Medians, and halfbyte's ratio to each peer."""
    print("| engine | " + " | ".join(f"{t}, tokens/s | halfbyte is" for t in tests) + " |")
    print("| --- |" + " ---: | ---: |" * len(tests))
    for row in rows:
        cells = []
        for test in tests:
            ours, speed = rows[0]["tokens_per_second"].get(test), row["tokens_per_second"].get(test)
            cells.append(f"{speed:.1f} | {ours / speed:.2f}x" if ours and speed else " | ")
        name = row["version"] if not row["peer"].startswith("halfbyte") else f"halfbyte {row['version']}"
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    from halfbyte import _core

    cpu = _core.cpu_info()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=FOLDER, check=False
    ).stdout.strip()
    return {
        "cpu": cpu["name"], "level": cpu["level"], "cores": cpu["cores"], "system": f"{platform.system()} {platform.machine()}", "commit": commit,
        "memory_bandwidth_gb_s": round(_core.memory_bandwidth(cpu["cores"]) / 1e9, 1),
        "dot_rate_gop_s": round(_core.dot_rate(cpu["level"], cpu["cores"]) / 1e9),
    }  # fmt: skip


if __name__ == "__main__":
    main()
