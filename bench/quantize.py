"""Each type by halfbyte and by llama.cpp's quantizer from one F16 file: bytes, seconds, and what the model lost.

python bench/quantize.py MODEL.gguf ... --llama-cpp PYTHON [--types Q4_K_M ...] [--imatrix] [--target] --out x.json

MODEL is decoded to F16 first. Loss is measured by halfbyte on the same chunks for both files: perplexity, and the mean
Kullback-Leibler divergence from the F16 model, which says the same with far less noise. The text is the documentation
that every Python carries (pydoc_data.topics); importance matrices (--imatrix, given to both) are made of another part of
it. --target adds, for each of the types, halfbyte's search among all types at the size of llama.cpp's file. --seen keeps
what files showed, by their tensors, so that only what has changed is measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import pydoc_data.topics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from compare import machine

from halfbyte import LLM, _core
from halfbyte.quantize import MIXES, Importance, Plan, plan_quantization, write_plan
from halfbyte.quantize.divergence import Divergence, log_softmax
from halfbyte.quantize.search import fit_to_size

N_CTX = 512
#: Rows of a chunk that are scored: each token of its second half after those before it.
SCORED = N_CTX - 1 - N_CTX // 2
#: A mean difference below this many of its standard errors is none.
SIGMAS = 2.0
TEXT = "\n".join(pydoc_data.topics.topics.values())


class Peer:
    """llama.cpp in a process of its own: a script of peers/ under the Python that has it."""

    def __init__(self, python: str, script: str) -> None:
        path = Path(__file__).resolve().parent / "peers" / script
        self._process = subprocess.Popen(
            [python, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version = self._answer()["version"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("llama.cpp ended without an answer.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SystemExit(answer["error"])
        return answer

    def ask(self, **job: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()


@dataclass
class Shown:
    """What a file showed: the figures, and of each scored token the divergence and the negative log likelihood."""

    facts: dict[str, float]
    kl: Any
    nll: Any


class Examiner:
    """What a model file loses against the F16 file, over the scored halves of some chunks."""

    def __init__(self, base: Path, chunks: int, threads: int, scratch: Path, seen: Path | None) -> None:
        self._threads, self._seen = threads, seen
        with LLM(base, n_ctx=N_CTX, n_threads=threads, prefix_cache=False) as llm:
            tokens = llm.tokenize(TEXT)
            bos = [llm.tokenizer.bos_id] if llm.tokenizer.add_bos else []
            # Spread over the text: neighbours speak of one thing.
            starts = np.linspace(0, len(tokens) // 2 - N_CTX, chunks).astype(int)
            self.chunks = [[*bos, *tokens[s : s + N_CTX - len(bos)]] for s in starts]
            self.calibration = [[*bos, *tokens[s : s + N_CTX - len(bos)]] for s in starts + len(tokens) // 2]
            shape = (chunks, SCORED, llm.config["n_vocab"])
            self._base = np.lib.format.open_memmap(scratch / "base.npy", "w+", np.float32, shape)
            for saved, chunk in zip(self._base, self.chunks, strict=True):
                saved[:] = log_softmax(llm.forward(chunk)[N_CTX // 2 : -1])
        self._asked = hashlib.sha256(np.array(self.chunks).tobytes() + self._base[:, :4].tobytes()).hexdigest()

    def examine(self, path: Path) -> Shown:
        if self._seen is None:
            return self._examine(path)
        model, digest = _core.GgufFile(str(path)), hashlib.sha256(self._asked.encode())
        for tensor in model.tensors:
            digest.update(f"{tensor.name} {tensor.format}".encode())
            digest.update(model.tensor_data(tensor.name))
        kept = self._seen / f"{digest.hexdigest()}.npz"
        if kept.exists():
            with np.load(kept) as found:
                facts = json.loads(str(found["facts"])) | {"bytes": path.stat().st_size}
                return Shown(facts, found["kl"], found["nll"])
        shown = self._examine(path)
        self._seen.mkdir(parents=True, exist_ok=True)
        np.savez(kept, facts=json.dumps(shown.facts), kl=shown.kl, nll=shown.nll)
        return shown

    def _examine(self, path: Path) -> Shown:
        found = Divergence()
        with LLM(path, n_ctx=N_CTX, n_threads=self._threads, prefix_cache=False) as llm:
            for base, chunk in zip(self._base, self.chunks, strict=True):
                targets = np.asarray(chunk[N_CTX // 2 + 1 :], np.int32)
                found.add(base, llm.forward(chunk)[N_CTX // 2 : -1], targets)
        summary = found.summary()
        facts = {
            "bytes": path.stat().st_size,
            "perplexity": summary["perplexity"],
            "divergence": summary["mean_kl_divergence"],
            "same_top": summary["same_top_token"],
        }
        return Shown(facts, np.concatenate(found.kl), np.concatenate(found.nll))


def importance_of(path: Path, chunks: list[list[int]], threads: int) -> Importance:
    collector = _core.ImportanceCollector(
        _core.Model.load(str(path), n_threads=threads), n_threads=threads, n_ctx=N_CTX
    )
    for chunk in chunks:
        collector.add(chunk)
    found = Importance(datasets=["pydoc_data.topics"], n_chunks=len(chunks), chunk_size=N_CTX)
    found.add(collector.sums())
    return found


def write(source: Any, plan: Plan, out: Path, importance: Importance | None, threads: int) -> dict[str, float]:
    start, start_cpu = time.perf_counter(), time.process_time()
    write_plan(source, plan, out, importance=importance, n_threads=threads)
    return {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - start_cpu}


def verdicts(ours: Shown, theirs: Shown) -> dict[str, Any]:
    """Mean differences over the same chunks, their standard errors, and "same" within what chance does. Tokens of a
    chunk share a subject: chunks are what is independent."""

    def of(what: str, differences: Any) -> dict[str, Any]:
        each = differences.reshape(-1, SCORED).mean(axis=1)
        mean, error = float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))
        verdict = "same" if abs(mean) <= SIGMAS * error else "better" if mean < 0 else "worse"
        return {f"{what}_difference": mean, f"{what}_error": error, f"{what}_verdict": verdict}

    return of("divergence", ours.kl.astype(np.float64) - theirs.kl) | of(
        "log_perplexity", ours.nll.astype(np.float64) - theirs.nll
    )


def suite(
    model: Path, arguments: argparse.Namespace, peer: Peer, scratch: Path, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Calls tell with the results so far after each type."""
    base = scratch / "f16.gguf"
    original = _core.GgufFile(str(model))
    write(original, plan_quantization(original, "F16"), base, None, arguments.threads)
    source = _core.GgufFile(str(base))
    examiner = Examiner(base, arguments.chunks, arguments.threads, scratch, arguments.seen)
    importance = npz = None
    if arguments.imatrix:
        importance, npz = importance_of(base, examiner.calibration, arguments.threads), scratch / "importance.npz"
        np.savez(npz, **importance.means)
    types: dict[str, Any] = {}
    results = {"f16": examiner.examine(base).facts, "types": types}
    print(f"{model.name}: F16 perplexity {results['f16']['perplexity']:.4f}")
    print(f"{'type':8} {'bytes':>11} {'processor s':>14} {'perplexity':>20} {'divergence':>20}")
    for mix in arguments.types:
        if importance is None and mix in NEED_IMPORTANCE:
            continue
        ours, theirs = scratch / "ours.gguf", scratch / "theirs.gguf"
        plan = plan_quantization(source, mix, has_importance=importance is not None)
        spent = write(source, plan, ours, importance, arguments.threads)
        their_spent = peer.ask(
            input=str(base), output=str(theirs), file_type=MIXES[mix].file_type, threads=arguments.threads,
            importance=str(npz) if npz else None,
        )  # fmt: skip
        a, b = examiner.examine(ours), examiner.examine(theirs)
        row = types[mix] = {"halfbyte": a.facts | spent | verdicts(a, b), "llama.cpp": b.facts | their_spent}
        _tell(
            mix, row["halfbyte"], b.facts, f"{spent['processor_seconds']:6.2f} {their_spent['processor_seconds']:6.2f}"
        )
        if arguments.target:
            target = sum(t.n_bytes for t in _core.GgufFile(str(theirs)).tensors)
            write(source, fit_to_size(source, target, importance=importance), ours, importance, arguments.threads)
            c = examiner.examine(ours)
            row["halfbyte, searched"] = c.facts | verdicts(c, b)
            _tell("  search", row["halfbyte, searched"], b.facts, " " * 13)
        tell(results)


#: What llama.cpp refuses to write without an importance matrix.
NEED_IMPORTANCE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "Q2_K_S")


def _tell(name: str, a: dict[str, Any], b: dict[str, Any], seconds: str) -> None:
    size = f"{b['bytes']}" if a["bytes"] == b["bytes"] else f"{a['bytes'] - b['bytes']:+d}"
    print(
        f"{name:8} {size:>11} {seconds} {a['perplexity']:10.4f} {b['perplexity']:10.4f} {a['divergence']:10.6f} "
        f"{b['divergence']:10.6f}  {a['log_perplexity_verdict']:6} {a['divergence_verdict']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--llama-cpp", default=sys.executable, metavar="PYTHON", help="the Python that has llama_cpp")
    parser.add_argument("--types", nargs="+", default=[m for m in MIXES if MIXES[m].base not in ("F32", "F16", "BF16")])
    parser.add_argument("--chunks", type=int, default=8, help=f"of {N_CTX} tokens, their second halves scored")
    parser.add_argument("--imatrix", action="store_true", help="with an importance matrix, the same for both")
    parser.add_argument("--target", action="store_true", help="also search types at the size of each file")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--seen", type=Path, metavar="FOLDER", help="keep and reuse what files of the same tensors showed"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    peer = Peer(arguments.llama_cpp, "llama_quantize.py")
    text = hashlib.sha256(TEXT.encode()).hexdigest()
    facts = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "peer": peer.version,
        "text_sha256": text,
    }
    results: dict[str, Any] = {}

    def keep(model: Path, found: dict[str, Any]) -> None:
        results[model.name] = found
        if arguments.out:
            arguments.out.write_text(json.dumps(facts | {"results": results}, indent=2) + "\n")

    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            suite(model, arguments, peer, Path(folder), partial(keep, model))


if __name__ == "__main__":
    main()
