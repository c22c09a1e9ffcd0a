"""Runs halfbyte and other engines on the same file in the same run, turn by turn, and prints medians and ratios.

python bench/compare.py MODEL.gguf [--peer NAME=PYTHON ...] [-p 512] [-n 64] [-t 2] [-r 5] [--out bench/results/x.json]

A peer runs under the Python that has it (NAME=/path/to/python); without =PYTHON under this one. A peer that does not
start is reported and left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
MODULES = {
    "halfbyte": "halfbyte_",
    "llama-cpp-python": "llama_cpp_python",
    "xllamacpp": "xllamacpp_",
    "openvino-genai": "openvino_genai_",
}


class Peer:
    """One engine in its own process."""

    def __init__(self, name: str, python: str, model: str, threads: int, n_ctx: int) -> None:
        self.name, self.results = name, {}  # type: ignore[var-annotated]
        script = FOLDER / "peers" / f"{MODULES[name]}.py"
        command = [python, str(script), model, str(threads), str(n_ctx)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version = self._answer()["version"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)  # type: ignore[no-any-return]
        raise RuntimeError("it ended without an answer")

    def measure(self, test: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(test + "\n")
        self._process.stdin.flush()
        return float(self._answer()["tokens_per_second"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME[=PYTHON]", help=", ".join(MODULES))
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("-t", type=int, default=2)
    parser.add_argument("-r", type=int, default=5)
    parser.add_argument("--out", help="write the figures as JSON")
    arguments = parser.parse_args()

    peers = []
    for item in ["halfbyte", *arguments.peer]:
        name, _, python = item.partition("=")
        try:
            peers.append(
                Peer(name, python or sys.executable, arguments.model, arguments.t, arguments.p + arguments.n + 16)
            )
        except (RuntimeError, OSError, KeyError) as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
    tests = [f"pp {arguments.p}", f"tg {arguments.n}"]
    for repetition in range(arguments.r + 1):  # the first is a warm-up
        for test in tests:
            for peer in peers:
                speed = peer.measure(test)
                if repetition > 0:
                    peer.results.setdefault(test.replace(" ", ""), []).append(speed)
    rows = []
    for peer in peers:
        peer.close()
        medians = {test: statistics.median(values) for test, values in peer.results.items()}
        rows.append({"peer": peer.name, "version": peer.version, "tokens_per_second": medians, "runs": peer.results})
    print_table(rows)
    if arguments.out:
        Path(arguments.out).write_text(
            json.dumps({"command": command_of(arguments), "machine": machine(), "results": rows}, indent=2) + "\n"
        )


def command_of(arguments: argparse.Namespace) -> str:
    """The command without this machine's folders."""
    peers = "".join(f" --peer {item.partition('=')[0]}" for item in arguments.peer)
    return f"python bench/compare.py {Path(arguments.model).name}{peers} -p {arguments.p} -n {arguments.n} -t {arguments.t} -r {arguments.r}"


def print_table(rows: list[dict[str, Any]]) -> None:
    """Medians, and halfbyte's ratio to each peer."""
    ours = rows[0]["tokens_per_second"]
    tests = list(ours)
    print("| engine | " + " | ".join(f"{t}, tokens/s | halfbyte is" for t in tests) + " |")
    print("| --- |" + " ---: | ---: |" * len(tests))
    for row in rows:
        cells = [f"{row['tokens_per_second'][t]:.1f} | {ours[t] / row['tokens_per_second'][t]:.2f}x" for t in tests]
        print(
            f"| {row['version'] if row['peer'] != 'halfbyte' else 'halfbyte ' + row['version']} | "
            + " | ".join(cells)
            + " |"
        )


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
    }  # fmt: skip


if __name__ == "__main__":
    main()
