"""What the integer kernels cost in accuracy: perplexity of each type against the same weights computed in float32.

python bench/accuracy.py MODEL.gguf --text FILE [--types Q4_K,IQ2_XS,...] [--chunks 8] [--level avx2] [--out x.json]

The model is quantized to each type (pure), the result is decoded to an F32 file, and both are scored on the same text: the
first as it is run, the second with F32 weights and an F32 KV cache. The difference is activations rounded to 8 bits and
keys and values kept in F16, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import machine

TYPES = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS IQ3_S IQ3_XXS IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S "
    "TQ1_0 TQ2_0 MXFP4 F16 BF16"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True, help="a text file; windows of 512 tokens are scored")
    parser.add_argument("--types", default=TYPES.replace(" ", ","))
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--imatrix", help="for the types that want one")
    parser.add_argument("--level", default="", help="CPU level of the measured run (default: the best)")
    parser.add_argument("--out", help="write the figures as JSON")
    arguments = parser.parse_args()
    rows = []
    print("| type | float32 | halfbyte | difference |\n| --- | ---: | ---: | ---: |")
    for name in arguments.types.split(","):
        with tempfile.TemporaryDirectory() as folder:
            small, plain = f"{folder}/small.gguf", f"{folder}/plain.gguf"
            imatrix = ["--imatrix", arguments.imatrix] if arguments.imatrix else []
            halfbyte("quantize", arguments.model, small, name, "--pure", "--allow-requantize", *imatrix)
            halfbyte("quantize", small, plain, "F32", "--allow-requantize")
            found = perplexity(small, arguments, "--kv-type", "f16", level=arguments.level)
            exact = perplexity(plain, arguments, "--kv-type", "f32")
        rows.append({"type": name, "float32": exact, "halfbyte": found, "difference": found / exact - 1})
        print(f"| {name} | {exact:.4f} | {found:.4f} | {100 * (found / exact - 1):+.3f} % |", flush=True)
    if arguments.out:
        report = {
            "model": Path(arguments.model).name,
            "chunks": arguments.chunks,
            "machine": machine(),
            "results": rows,
        }
        Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n")


def halfbyte(*command: str, level: str = "") -> str:
    """The standard output of a halfbyte command."""
    environment = {**os.environ, "HALFBYTE_ISA": level} if level else None
    done = subprocess.run([sys.executable, "-m", "halfbyte", *command], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"halfbyte {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def perplexity(model: str, arguments: argparse.Namespace, *options: str, level: str = "") -> float:
    command = ["-m", model, "-f", arguments.text, "-c", "512", "--chunks", str(arguments.chunks), "--json", *options]
    return float(json.loads(halfbyte("perplexity", *command, level=level))["perplexity"])


if __name__ == "__main__":
    main()
