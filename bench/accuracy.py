"""What the engine's arithmetic costs in accuracy: predictions of each type against the same weights computed in float32.

python bench/accuracy.py MODEL.gguf [--types Q4_0 ...] [--chunks 16] [--level avx2] [--llama-cpp PYTHON] [--out x.json]

The model is quantized to each type (pure), the result is decoded to an F32 file, and both see the same text: the first as
it is run, the second with F32 weights and an F32 KV cache. The difference is activations rounded to 8 bits and keys and
values kept in F16, nothing else. --llama-cpp compares llama.cpp's logits of the quantized file with the same F32 ones.

The text is the documentation that every Python carries (pydoc_data.topics). A difference of perplexity stands with its
standard error, of the chunks' paired differences; the mean Kullback-Leibler divergence tells kernels apart with far less
noise. Formats of 256 weights a block give way to others in rows that they do not divide: `formats` says what was measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from compare import machine
from quantize import N_CTX, TEXT, Peer, write

from halfbyte import LLM, _core
from halfbyte.quantize import plan_quantization
from halfbyte.quantize.divergence import Divergence, log_softmax
from halfbyte.quantize.plan import mix_named

TYPES = [
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "IQ3_S",
    "IQ3_XXS",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
    "IQ1_M",
    "IQ1_S",
    "TQ1_0",
    "TQ2_0",
    "MXFP4",
    "F16",
    "BF16",
]
FIRST = N_CTX // 2  # logits of this token on are compared


class Found:
    """An engine's differences from float32, chunk by chunk."""

    def __init__(self) -> None:
        self._chunks: list[Divergence] = []

    def add(self, base: Any, logits: Any, targets: Any) -> None:
        chunk = Divergence()
        chunk.add(base, logits, targets)
        self._chunks.append(chunk)

    def facts(self) -> dict[str, float]:
        """Perplexity, its relative difference and the mean divergence, with standard errors over chunks."""
        nll, base, kl = (
            np.array([np.concatenate(getattr(chunk, name)).mean(dtype=np.float64) for chunk in self._chunks])
            for name in ("nll", "base_nll", "kl")
        )
        n = np.sqrt(len(kl))
        ratio = np.exp((nll - base).mean())
        return {
            "float32": float(np.exp(base.mean())),
            "perplexity": float(np.exp(nll.mean())),
            "difference": float(ratio - 1),
            "difference_error": float(ratio * (nll - base).std(ddof=1) / n),
            "divergence": float(kl.mean()),
            "divergence_error": float(kl.std(ddof=1) / n),
        }


def read(llm: LLM, chunk: list[int]) -> Any:
    """Logits of the scored tokens."""
    return llm.forward(chunk)[FIRST:-1]


def compare(small: Path, plain: Path, arguments: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    """Of halfbyte and, where there is a peer, of llama.cpp."""
    options: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": arguments.threads, "prefix_cache": False, "n_gpu_layers": 0}
    ours, theirs = Found(), Found()
    with LLM(small, **options) as llm, LLM(plain, kv_type="f32", **options) as exact:
        tokens = llm.tokenize(TEXT, add_bos=False)
        bos = [llm.tokenizer.bos_id] if llm.tokenizer.add_bos else []
        # Spread over the text: neighbours speak of one thing.
        starts = np.linspace(0, len(tokens) - N_CTX, arguments.chunks).astype(int)
        for start in starts:
            chunk = [*bos, *tokens[start : start + N_CTX - len(bos)]]
            targets = np.array(chunk[FIRST + 1 :], np.int32)
            base = log_softmax(read(exact, chunk))
            ours.add(base, read(llm, chunk), targets)
            if peer is not None:
                logits = small.with_suffix(".npy")
                peer.ask(model=str(small), tokens=chunk, first=FIRST, output=str(logits), threads=arguments.threads)
                theirs.add(base, np.load(logits, mmap_mode="r")[:-1], targets)
    return {"halfbyte": ours.facts()} | ({"llama.cpp": theirs.facts()} if peer is not None else {})


def measure(source: Any, name: str, arguments: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        small, plain = Path(folder, "small.gguf"), Path(folder, "plain.gguf")
        plan = plan_quantization(source, mix_named(name), pure=True)
        write(source, plan, small, None, arguments.threads)
        quantized = _core.GgufFile(str(small))
        write(quantized, plan_quantization(quantized, "F32", pure=True), plain, None, arguments.threads)
        formats = Counter(choice.format for choice in plan.choices if len(choice.shape) > 1)
        return {"chunks": arguments.chunks, "formats": dict(formats), **compare(small, plain, arguments, peer)}


def cells(facts: dict[str, float]) -> str:
    return (
        f"{100 * facts['difference']:+.3f} ± {100 * facts['difference_error']:.3f} % | "
        f"{1e4 * facts['divergence']:.2f} ± {1e4 * facts['divergence_error']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--chunks", type=int, default=16, help=f"of {N_CTX} tokens, their second halves scored")
    parser.add_argument("--level", help="CPU level (default: the best)")
    parser.add_argument("--llama-cpp", metavar="PYTHON", help="the Python that has llama_cpp")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, beside those that it holds")
    arguments = parser.parse_args()
    if arguments.level:
        os.environ["HALFBYTE_ISA"] = arguments.level  # read when the first model is loaded
    peer = Peer(arguments.llama_cpp, "llama_logits.py") if arguments.llama_cpp else None
    results = json.loads(arguments.out.read_text())["results"] if arguments.out and arguments.out.exists() else {}
    of_model = results.setdefault(Path(arguments.model).name, {})
    facts = {
        "command": " ".join(["python bench/accuracy.py", *(Path(word).name for word in sys.argv[1:])]),
        "machine": machine(),
        "peer": peer.version if peer else None,
        "text_sha256": hashlib.sha256(TEXT.encode()).hexdigest(),
    }
    titles = ["halfbyte", "llama.cpp"] if peer else ["halfbyte"]
    print("| type | float32 | " + " | ".join(f"{title} | divergence / 10⁻⁴" for title in titles) + " |")
    print("| --- | ---: |" + " ---: | ---: |" * len(titles))
    source = _core.GgufFile(arguments.model)
    for name in arguments.types:
        row = of_model[name] = measure(source, name, arguments, peer)
        shown = " | ".join(cells(row[title]) for title in titles)
        print(f"| {name} | {row['halfbyte']['float32']:.3f} | {shown} |", flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(facts | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
