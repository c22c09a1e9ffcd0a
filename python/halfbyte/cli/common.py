"""What several commands share: model and sampling flags, progress bars, JSON output."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from halfbyte.adapters import parse_lora
from halfbyte.errors import FileError, InvalidArgumentError
from halfbyte.llm import LLM
from halfbyte.params import SamplingParams

# Work shorter than this gets no progress bar.
_QUIET_S = 0.5


class _FirstWord(argparse.Action):
    """A model named without -m."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, word: Any, _: Any = None
    ) -> None:
        if word is not None and namespace.model is not None:
            parser.error(f"two models are named: {namespace.model} and {word}")
        namespace.model = namespace.model if word is None else word


def add_model_arguments(parser: argparse.ArgumentParser, *, has_words: bool = False) -> None:
    """The model, with -m or as the first word (has_words: the command reads its words itself), and how to run it."""
    parser.add_argument(
        "-m", "--model", help="a .gguf file, a model's folder, a known name (smollm2, the default), or owner/repo"
    )
    if not has_words:
        parser.add_argument("word", nargs="?", action=_FirstWord, metavar="MODEL", help="the same as -m MODEL")
    parser.add_argument("-c", "--ctx-size", type=int, default=0, metavar="N", help="context in tokens (0: the model's)")
    parser.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="threads (0: all cores)")
    parser.add_argument("-b", "--batch-size", type=int, default=512, metavar="N", help="prompt tokens of a step")
    parser.add_argument(
        "-ngl",
        "--n-gpu-layers",
        default="auto",
        metavar="N",
        help="how many of the last layers the GPU takes (auto: as many as fit)",
    )
    add_gpu_memory_argument(parser)
    experts = parser.add_mutually_exclusive_group()
    experts.add_argument("-cmoe", "--cpu-moe", action="store_true", help="keep all experts on the CPU")
    experts.add_argument(
        "-ncmoe", "--n-cpu-moe", type=int, default=0, metavar="N", help="keep the first N layers' experts on the CPU"
    )
    parser.add_argument(
        "--kv-type", default="f16", choices=["f16", "bf16", "f32", "q8_0", "q4_0"], help="keys and values"
    )
    parser.add_argument("-md", "--draft-model", metavar="MODEL", help="a small model of the same family guesses ahead")
    parser.add_argument(
        "--lora", action="append", default=[], metavar="FILE[=X]", help="an adapter and its strength (may be repeated)"
    )
    parser.add_argument("--quant", metavar="TYPE", help="quantize a folder's weights on loading (q8_0, q4_k_m, ...)")
    parser.add_argument("--no-mmap", action="store_true", help="pack the weights (the default); see --mmap")
    parser.add_argument("--mmap", action="store_true", help="pack nothing: least memory, slower")
    parser.add_argument("--mlock", action="store_true", help="keep the process in memory")


def add_gpu_memory_argument(parser: argparse.ArgumentParser) -> None:
    """What share of the GPUs' memory a model may take."""
    parser.add_argument(
        "--gpu-memory-utilization",
        type=float,
        default=0.9,
        metavar="X",
        help="share of each GPU's memory for weights, KV blocks and work buffers (0.9)",
    )


def checked_utilization(arguments: argparse.Namespace) -> float:
    """The value of --gpu-memory-utilization."""
    share: float = arguments.gpu_memory_utilization
    if not 0 < share <= 1:
        raise UsageError(f"--gpu-memory-utilization {share:g}: a share above 0 and at most 1 was expected.")
    return share


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that people know from llama-cli."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "-n", "--n-predict", type=int, default=-1, metavar="N", help="most tokens to generate (-1: no limit)"
    )
    group.add_argument("-s", "--seed", type=int, default=-1, help="random seed (-1: draw one)")
    group.add_argument("--temp", type=float, metavar="T", help="temperature; 0 is greedy (0.8)")
    group.add_argument("--top-k", type=int, metavar="K", help="the K most likely tokens (40; 0: off)")
    group.add_argument("--top-p", type=float, metavar="P", help="the most likely tokens of mass P (0.95; 1: off)")
    group.add_argument("--min-p", type=float, metavar="P", help="tokens P times as likely as the best (0.05; 0: off)")
    group.add_argument("--typical", type=float, metavar="P", help="locally typical mass (1: off)")
    group.add_argument(
        "--top-n-sigma", type=float, metavar="N", help="tokens within N deviations of the best (-1: off)"
    )
    group.add_argument("--xtc-probability", type=float, metavar="P", help="how often top choices are excluded (0: off)")
    group.add_argument("--xtc-threshold", type=float, metavar="P", help="what counts as a top choice (0.1)")
    group.add_argument("--repeat-penalty", type=float, metavar="X", help="penalty on repeated tokens (1: off)")
    group.add_argument("--repeat-last-n", type=int, metavar="N", help="window of the penalties (64; -1: all)")
    group.add_argument("--presence-penalty", type=float, metavar="X", help="(0: off)")
    group.add_argument("--frequency-penalty", type=float, metavar="X", help="(0: off)")
    group.add_argument("--dry-multiplier", type=float, metavar="X", help="penalty on repeated runs (0: off)")
    group.add_argument("--mirostat", type=int, choices=[0, 1, 2], help="mirostat version (0: off)")
    group.add_argument("--samplers", help="their order, separated by ;")
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end the answer here (may be repeated)"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's end token")


def sampling_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling flags that were given, under SamplingParams' names."""
    names = {
        "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "typical": "typical_p",
        "top_n_sigma": "top_n_sigma", "xtc_probability": "xtc_probability", "xtc_threshold": "xtc_threshold",
        "repeat_penalty": "repeat_penalty", "repeat_last_n": "repeat_last_n", "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty", "dry_multiplier": "dry_multiplier", "mirostat": "mirostat",
    }  # fmt: skip
    out = {ours: value for flag, ours in names.items() if (value := getattr(arguments, flag)) is not None}
    if arguments.samplers:
        out["samplers"] = [s for s in arguments.samplers.split(";") if s]
    out["max_tokens"] = None if arguments.n_predict < 0 else arguments.n_predict
    out["seed"] = None if arguments.seed < 0 else arguments.seed
    out["stop"] = arguments.stop
    out["ignore_eos"] = arguments.ignore_eos
    try:
        SamplingParams(**out)  # bad values are refused before a model is loaded
    except InvalidArgumentError as error:
        raise UsageError(error.message, hint=error.hint) from None
    return out


def load_model(arguments: argparse.Namespace, model: str | None = None, **options: Any) -> LLM:
    """The LLM that the flags ask for, with progress bars for what takes long."""
    from halfbyte.hub import open_model

    options |= model_options(arguments)
    with download_progress() as tell:
        files = open_model(model or arguments.model or "smollm2", tell)
    with bar("Loading") as advance:
        return LLM(files, progress=advance, **options)


class UsageError(InvalidArgumentError):
    """A flag has a value that it cannot have."""

    exit_code = 2


def model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of add_model_arguments() as LLM() takes them, the model itself left out."""
    if arguments.ctx_size < 0 or arguments.threads < 0 or arguments.batch_size < 1:
        raise UsageError("-c and -t take a count or 0, -b at least 1.")
    layers: int | str = arguments.n_gpu_layers
    if isinstance(layers, str) and layers.removeprefix("-").isdigit():
        layers = int(layers)
    if layers != "auto" and (isinstance(layers, str) or layers < -1):
        raise UsageError(f"-ngl {layers}: a count of layers, or auto, was expected.")
    if arguments.n_cpu_moe < 0:
        raise UsageError("--n-cpu-moe takes a count of layers.")
    if arguments.mlock:
        _lock_memory()
    return {
        "n_ctx": arguments.ctx_size or None,
        "n_threads": arguments.threads or None,
        "n_batch": arguments.batch_size,
        "n_gpu_layers": layers,
        "cpu_moe": arguments.cpu_moe or arguments.n_cpu_moe,
        "gpu_memory_utilization": checked_utilization(arguments),
        "kv_type": arguments.kv_type,
        "mmap": arguments.mmap,
        "quant": arguments.quant,
        "draft_model": arguments.draft_model,
        "lora": parse_lora(arguments.lora),
    }


def _lock_memory() -> None:
    import ctypes

    current_and_future = 3
    if ctypes.CDLL(None, use_errno=True).mlockall(current_and_future) != 0:
        raise InvalidArgumentError(
            "--mlock: the system refuses to lock this much memory.",
            hint="Raise the limit (ulimit -l), or leave --mlock out.",
        )


@contextmanager
def bar(title: str, *, unit_bytes: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, shown when the work takes longer than half a second and stderr is a terminal."""
    start = time.monotonic()
    shown: Any = None
    task: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal shown, task
        if shown is None:
            if not sys.stderr.isatty() or time.monotonic() - start < _QUIET_S:
                return
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn() if unit_bytes else TextColumn("{task.completed}/{task.total}"),
            ]
            shown = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            shown.start()
            task = shown.add_task(title, total=total or None)
        shown.update(task, completed=done, total=total or None)

    try:
        yield advance
    finally:
        if shown is not None:
            shown.stop()


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Progress of a download: a bar on a terminal, one line otherwise."""
    told: set[str] = set()
    with bar("Fetching") as advance:

        def tell(name: str, done: int, total: int) -> None:
            if name not in told and not sys.stderr.isatty():
                print(f"Fetching {name} ...", file=sys.stderr)
            told.add(name)
            advance(done, total)

        yield tell


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def read_text(path: str) -> str:
    """A text file's content; "-" is standard input."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}.", hint="Check the path.") from None


def human_bytes(n: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return ""
