"""
halfbyte's native core.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing
import typing_extensions

from . import testing

__all__: list[str] = [
    "ARCHITECTURES",
    "Adapter",
    "AdapterSet",
    "Chain",
    "Engine",
    "GgufFile",
    "GpuBudget",
    "ImportanceCollector",
    "Mailbox",
    "Model",
    "SAMPLER_STAGES",
    "SafetensorsFile",
    "SamplingParams",
    "TensorInfo",
    "can_quantize",
    "cpu_info",
    "decode",
    "dot_rate",
    "encode",
    "formats",
    "gpu_info",
    "gpu_plan",
    "measure_loss",
    "memory_bandwidth",
    "merges_by_score",
    "read_config",
    "requantize",
    "return_freed_memory",
    "testing",
    "write_gguf",
]

class TensorInfo:
    """
    A tensor of a model file: name, format, shape (contiguous axis first), n_bytes.
    """
    def __repr__(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def name(self) -> typing.Any: ...
    @property
    def shape(self) -> tuple: ...

class GgufFile:
    """
    A GGUF file (or all parts of a split one) open for reading.
    """
    def __init__(self, path: str) -> None: ...
    def tensor_data(self, name: str) -> numpy.typing.NDArray[numpy.uint8]:
        """
        The tensor's bytes as stored, uint8 (n_bytes).
        """
    def tensor_f32(self, name: str) -> numpy.typing.NDArray[numpy.float32]:
        """
        The tensor decoded: float32, numpy order (rows, columns).
        """
    @property
    def alignment(self) -> int: ...
    @property
    def metadata(self) -> dict:
        """
        dict of key -> bool, int, float, str or list; made anew at each access.
        """
    @property
    def paths(self) -> list[str]: ...
    @property
    def tensors(self) -> list: ...
    @property
    def version(self) -> int: ...

class SafetensorsFile:
    """
    A safetensors file open for reading; its header was checked.
    """
    def __init__(self, path: str) -> None: ...
    def tensor_data(self, name: str) -> numpy.ndarray:
        """
        The tensor's bytes in the mapped file: uint8 (n_bytes), read-only, not copied.
        """
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def tensors(self) -> dict:
        """
        dict of name -> (dtype as the file spells it, shape with the outermost axis first).
        """

class SamplingParams:
    """
    What a request asks of the sampler chain; see halfbyte.SamplingParams for meanings.
    """
    def __init__(self, **kwargs) -> None: ...
    def __repr__(self) -> str: ...
    @property
    def allowed_token_ids(self) -> list[int]: ...
    @allowed_token_ids.setter
    def allowed_token_ids(self, arg0: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> None: ...
    @property
    def bad_words(self) -> list[list[int]]: ...
    @bad_words.setter
    def bad_words(
        self, arg0: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]]
    ) -> None: ...
    @property
    def dry_allowed_length(self) -> int: ...
    @dry_allowed_length.setter
    def dry_allowed_length(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def dry_base(self) -> float: ...
    @dry_base.setter
    def dry_base(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def dry_multiplier(self) -> float: ...
    @dry_multiplier.setter
    def dry_multiplier(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def dry_penalty_last_n(self) -> int: ...
    @dry_penalty_last_n.setter
    def dry_penalty_last_n(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def dry_sequence_breakers(self) -> list[list[int]]: ...
    @dry_sequence_breakers.setter
    def dry_sequence_breakers(
        self, arg0: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]]
    ) -> None: ...
    @property
    def dynatemp_exponent(self) -> float: ...
    @dynatemp_exponent.setter
    def dynatemp_exponent(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def dynatemp_range(self) -> float: ...
    @dynatemp_range.setter
    def dynatemp_range(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def frequency_penalty(self) -> float: ...
    @frequency_penalty.setter
    def frequency_penalty(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def logit_bias(self) -> list[tuple[int, float]]: ...
    @logit_bias.setter
    def logit_bias(
        self,
        arg0: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]
        ],
    ) -> None: ...
    @property
    def min_keep(self) -> int: ...
    @min_keep.setter
    def min_keep(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def min_p(self) -> float: ...
    @min_p.setter
    def min_p(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def mirostat(self) -> int: ...
    @mirostat.setter
    def mirostat(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def mirostat_eta(self) -> float: ...
    @mirostat_eta.setter
    def mirostat_eta(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def mirostat_tau(self) -> float: ...
    @mirostat_tau.setter
    def mirostat_tau(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def n_logprobs(self) -> int: ...
    @n_logprobs.setter
    def n_logprobs(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def order(self) -> list[str]: ...
    @order.setter
    def order(self, arg0: collections.abc.Sequence[str]) -> None: ...
    @property
    def presence_penalty(self) -> float: ...
    @presence_penalty.setter
    def presence_penalty(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def repeat_last_n(self) -> int: ...
    @repeat_last_n.setter
    def repeat_last_n(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def repeat_penalty(self) -> float: ...
    @repeat_penalty.setter
    def repeat_penalty(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def seed(self) -> int | None: ...
    @seed.setter
    def seed(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None: ...
    @property
    def temperature(self) -> float: ...
    @temperature.setter
    def temperature(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def top_k(self) -> int: ...
    @top_k.setter
    def top_k(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def top_n_sigma(self) -> float: ...
    @top_n_sigma.setter
    def top_n_sigma(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def top_p(self) -> float: ...
    @top_p.setter
    def top_p(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def typical_p(self) -> float: ...
    @typical_p.setter
    def typical_p(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def xtc_probability(self) -> float: ...
    @xtc_probability.setter
    def xtc_probability(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def xtc_threshold(self) -> float: ...
    @xtc_threshold.setter
    def xtc_threshold(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...

class Chain:
    """
    A sampler chain with its state (seeded generator, mirostat).
    """
    def __init__(self, params: SamplingParams, n_vocab: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def sample(
        self,
        logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        prompt: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [],
        generated: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [],
        mask: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32] | None = None,
    ) -> dict:
        """
        Draws a token from float32 logits (n_vocab); returns token, logprob, top_logprobs.
        """
    def sample_among(
        self,
        best: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]
        ],
        prompt: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [],
        generated: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [],
    ) -> dict:
        """
        sample() from the (token, logit) of at least n_deciding most likely tokens, best first.
        """
    @property
    def n_deciding(self) -> int:
        """
        How many of the most likely tokens decide the draw; 0: only all logits do.
        """

class Model:
    """
    A model's weights, packed for this machine. Immutable; engines share it.
    """
    @staticmethod
    def assemble(
        path: str,
        metadata: dict,
        tensors: list,
        *,
        n_threads: typing.SupportsInt | typing.SupportsIndex = 0,
        mmap: bool = False,
        n_gpu_layers: typing.SupportsInt | typing.SupportsIndex = -1,
        n_cpu_moe: typing.SupportsInt | typing.SupportsIndex = 0,
        gpu_budget: GpuBudget = ...,
        progress: typing.Any = None,
    ) -> Model:
        """
        Loads a model from metadata and tensors as write_gguf() takes them, one tensor at a time; path is for messages.
        """
    @staticmethod
    def load(
        path: str,
        *,
        n_threads: typing.SupportsInt | typing.SupportsIndex = 0,
        mmap: bool = False,
        n_gpu_layers: typing.SupportsInt | typing.SupportsIndex = -1,
        n_cpu_moe: typing.SupportsInt | typing.SupportsIndex = 0,
        gpu_budget: GpuBudget = ...,
        progress: typing.Any = None,
    ) -> Model:
        """
        Loads a GGUF file. mmap=True packs nothing (slower, least memory). n_gpu_layers: how many of the last layers go to the GPUs, -1 for as many as fit. n_cpu_moe: layers, from the first on, whose experts stay on the CPU. gpu_budget: what the layers leave room for. progress(done_bytes, total_bytes) may return False to stop.
        """
    @property
    def config(self) -> dict: ...
    @property
    def metadata(self) -> dict: ...
    @property
    def n_cpu_moe(self) -> int:
        """
        Layers whose experts are on the CPU.
        """
    @property
    def n_ctx_train(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def n_gpu_layers(self) -> int: ...
    @property
    def n_gpus(self) -> int:
        """
        GPUs that compute layers.
        """
    @property
    def n_vocab(self) -> int: ...
    @property
    def packed_bytes(self) -> int: ...
    @property
    def path(self) -> str: ...

class GpuBudget:
    """
    What of the GPUs' memory a model may take, and the engine it is for.
    """
    def __init__(
        self,
        *,
        utilization: typing.SupportsFloat | typing.SupportsIndex = 0.9,
        n_ctx: typing.SupportsInt | typing.SupportsIndex = 0,
        n_batch: typing.SupportsInt | typing.SupportsIndex = 512,
        max_sequences: typing.SupportsInt | typing.SupportsIndex = 64,
        kv_type: str = "f16",
        beside: Model | None = None,
    ) -> None:
        """
        utilization: the share of each GPU's memory that weights, KV blocks and work buffers may take together. n_ctx: 0 for not said. beside: a draft model that is loaded, whose weights, KV blocks and buffers count too.
        """

class Adapter:
    """
    A low-rank adapter, packed for one model. Immutable.
    """
    def __init__(
        self,
        model: Model,
        parts: collections.abc.Sequence[
            tuple[
                str,
                typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
                typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
            ]
        ],
    ) -> None:
        """
        parts: list of (name as in "blk.3.attn_q", a (rank, columns), b (rows, rank)), float32; w becomes w + b a.
        """

class AdapterSet:
    """
    The adapters of a request and their strengths. Requests with one set share their prefixes.
    """
    def __init__(
        self, adapters: collections.abc.Sequence[tuple[Adapter, typing.SupportsFloat | typing.SupportsIndex]]
    ) -> None:
        """
        adapters: list of (Adapter, strength).
        """

class Mailbox:
    """
    Where events of requests arrive: of one request, or of as many as one thread will read.
    """
    def __init__(self) -> None: ...
    def close(self) -> None:
        """
        Wakes whoever waits; later events are dropped.
        """
    def take(self, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> list:
        """
        All events that have come, in order, as dicts; waits up to timeout_s for the first. Empty on timeout and once closed. `id` names the request, `finish` is "" until its last event, `error` an exception when `finish` is "error".
        """

class Engine:
    """
    Runs requests on a model in one thread of its own. Thread-safe.
    """
    def __init__(
        self,
        model: Model,
        *,
        n_threads: typing.SupportsInt | typing.SupportsIndex = 0,
        n_ctx: typing.SupportsInt | typing.SupportsIndex = 0,
        kv_tokens: typing.SupportsInt | typing.SupportsIndex = 0,
        k_type: str = "f16",
        v_type: str = "f16",
        n_batch: typing.SupportsInt | typing.SupportsIndex = 512,
        max_sequences: typing.SupportsInt | typing.SupportsIndex = 64,
        max_waiting: typing.SupportsInt | typing.SupportsIndex = 0,
        prefix_cache: bool = True,
        prompt_lookup: bool = True,
        max_drafts: typing.SupportsInt | typing.SupportsIndex = 8,
        draft_model: Model | None = None,
        token_bytes: collections.abc.Sequence[bytes] = [],
    ) -> None: ...
    def cancel(self, id: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Ends a request within one step. Unknown ids are ignored.
        """
    def check_integrity(self) -> None: ...
    def close(self) -> None:
        """
        Cancels what runs and ends the thread; later calls raise CancelledError. Idempotent.
        """
    def forward(
        self,
        tokens: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        output: str = "logits",
        adapters: AdapterSet | None = None,
    ) -> numpy.typing.NDArray[numpy.float32]:
        """
        Runs tokens through an empty sequence: logits (n, n_vocab), hidden (n, n_embd) or next_logprobs (n - 1), float32.
        """
    def stats(self) -> dict: ...
    def submit(
        self,
        prompt: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        params: SamplingParams,
        mailbox: Mailbox,
        *,
        max_tokens: typing.SupportsInt | typing.SupportsIndex = -1,
        min_tokens: typing.SupportsInt | typing.SupportsIndex = 0,
        stop_tokens: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [],
        stop_strings: collections.abc.Sequence[bytes] = [],
        include_stop: bool = False,
        overflow: str = "error",
        n_keep: typing.SupportsInt | typing.SupportsIndex = 0,
        priority: typing.SupportsInt | typing.SupportsIndex = 0,
        client: str = "",
        prompt_logprobs: bool = False,
        beam_width: typing.SupportsInt | typing.SupportsIndex = 1,
        n_hypotheses: typing.SupportsInt | typing.SupportsIndex = 1,
        length_penalty: typing.SupportsFloat | typing.SupportsIndex = 1.0,
        early_stopping: bool = False,
        processors: list = [],
        mask_function: typing.Any = None,
        adapters: AdapterSet | None = None,
    ) -> tuple[int, int]:
        """
        Queues a request whose events go to the mailbox; returns (id, seed used).
        """
    @property
    def options(self) -> dict: ...

class ImportanceCollector:
    """
    Sums what enters each matrix while a model reads texts, and its squares.
    """
    def __init__(
        self,
        model: Model,
        *,
        n_threads: typing.SupportsInt | typing.SupportsIndex = 0,
        n_ctx: typing.SupportsInt | typing.SupportsIndex = 512,
    ) -> None: ...
    def add(self, tokens: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> None:
        """
        Reads a text of its own: 1 to n_ctx tokens.
        """
    def sums(self) -> dict:
        """
        dict of tensor name -> (sums of squares, sums: float64 (n_matrices, n_cols), rows seen: int64 (n_matrices)); a tensor of experts is a stack of several matrices.
        """

def can_quantize(format: str) -> bool:
    """
    Whether requantize() can write the format.
    """

def cpu_info() -> dict:
    """
    The processor: name, CPU level in use and why, supported levels, usable cores.
    """

def decode(format: str, blocks: bytes) -> numpy.typing.NDArray[numpy.float32]:
    """
    Decodes whole blocks of a format into float32 weights.
    """

def dot_rate(level: str, n_threads: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Operations a second of a CPU level's integer dots between registers: the bound of prefill.
    """

def encode(format: str, weights: typing.Annotated[numpy.typing.ArrayLike, numpy.float32]) -> bytes:
    """
    Encodes float32 weights into blocks, rounding to nearest.
    """

def formats() -> list:
    """
    Every block format: id, name, block_weights, block_bytes, bits_per_weight, has_encoder, max_rmse.
    """

def gpu_info() -> dict:
    """
    The GPU: whether models may use it, else the problem; name, compute capability, bytes of memory. others: the same of further GPUs.
    """

def gpu_plan(path: str, gpu_budget: GpuBudget) -> typing.Any:
    """
    What the GPUs hold of a model file, None without any. n_gpu_layers: how many of the last layers fit; n_cpu_moe: the fewest layers whose experts stay on the CPU so that all the rest fits, None where that is not enough.
    """

def measure_loss(
    data: typing_extensions.Buffer,
    from_format: str,
    n_cols: typing.SupportsInt | typing.SupportsIndex,
    to_format: str,
    importance: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    mean_inputs: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    *,
    max_rows: typing.SupportsInt | typing.SupportsIndex = 256,
    n_threads: typing.SupportsInt | typing.SupportsIndex = 0,
) -> tuple[float, float]:
    """
    What requantize() minimizes, sum importance (decoded - w)^2 or with mean_inputs the squared error of outputs, and the same of w itself, on at most max_rows rows.
    """

def memory_bandwidth(n_threads: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Bytes a second that n_threads read together from memory (the best of five passes over 256 MiB).
    """

def merges_by_score(
    pieces: collections.abc.Sequence[str],
    scores: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    mergeable: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
) -> list[tuple[str, str]]:
    """
    (left, right) of every pair of pieces that makes a mergeable piece, best score first.
    """

def read_config(path: str) -> dict:
    """
    A model file's configuration, without loading weights.
    """

def requantize(
    data: typing_extensions.Buffer,
    from_format: str,
    n_cols: typing.SupportsInt | typing.SupportsIndex,
    to_format: str,
    importance: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    mean_inputs: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    *,
    n_threads: typing.SupportsInt | typing.SupportsIndex = 0,
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Rows of n_cols weights in one format (contiguous bytes) -> the same rows in another: uint8, with the least squared error that the search finds. importance: float32 (n_cols), or (matrices, n_cols) for stacked ones, weighs the columns: their mean squared inputs. mean_inputs, as many: their means, along which errors of a row then take each other back. Raises FormatError for weights that are not finite.
    """

def return_freed_memory() -> None:
    """
    Gives memory that was freed back to the system, where the C library keeps it.
    """

def write_gguf(path: str, metadata: dict, tensors: list) -> None:
    """
    Writes a GGUF v3 file; tensors are (name, format, shape with the contiguous axis first, data). data is bytes-like, or a function without arguments that gives it when the tensor's turn comes.
    """

ARCHITECTURES: tuple = (
    "arcee",
    "chatglm",
    "cohere2",
    "command-r",
    "deepseek2",
    "dots1",
    "ernie4_5",
    "ernie4_5-moe",
    "exaone",
    "exaone4",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3n",
    "gemma4",
    "glm4",
    "glm4moe",
    "gpt2",
    "gpt-oss",
    "gptneox",
    "granite",
    "granitemoe",
    "hunyuan-dense",
    "hunyuan-moe",
    "internlm2",
    "llama",
    "minimax-m2",
    "minicpm",
    "mistral3",
    "nemotron",
    "olmo2",
    "olmoe",
    "phi2",
    "phi3",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen3moe",
    "qwen3vl",
    "qwen3vlmoe",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder",
    "starcoder2",
)
SAMPLER_STAGES: tuple = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typical_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)
__version__: str = "0.1.0"
