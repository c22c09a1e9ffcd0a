"""
One op at one CPU level on numpy arrays. For tests and micro-benchmarks.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

__all__: list[str] = [
    "BlockPool",
    "PrefixTree",
    "Scheduler",
    "StepCost",
    "StopMatcher",
    "attention",
    "cut",
    "experts",
    "glu",
    "kv_groups",
    "kv_places",
    "likely",
    "linear",
    "linear_glu",
    "match_size",
    "mix",
    "norm",
    "norm_add",
    "open_gpu_library",
    "rope",
    "route",
    "set_cpu_level",
    "store_heads",
]

class BlockPool:
    def __init__(self, n_blocks: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def add_ref(self, block: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def allocate(self) -> int: ...
    def check_integrity(
        self, expected_refs: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = []
    ) -> None: ...
    def ref_count(self, block: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    def release(self, block: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def n_free(self) -> int: ...

class PrefixTree:
    def __init__(
        self, pool: BlockPool, windows: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [0]
    ) -> None: ...
    def evict(self, n: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    def insert(
        self,
        arg0: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        arg1: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]],
    ) -> None: ...
    def match(self, arg0: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> list[list[int]]: ...
    def n_known(self, arg0: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> int: ...
    @property
    def n_blocks(self) -> int: ...
    @property
    def n_evictable(self) -> int: ...

class Scheduler:
    def __init__(
        self,
        n_blocks: typing.SupportsInt | typing.SupportsIndex,
        *,
        n_batch: typing.SupportsInt | typing.SupportsIndex = 512,
        max_sequences: typing.SupportsInt | typing.SupportsIndex = 64,
        max_logit_rows: typing.SupportsInt | typing.SupportsIndex = 64,
        prefix_cache: bool = True,
        windows: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [0],
    ) -> None: ...
    def add(
        self,
        id: typing.SupportsInt | typing.SupportsIndex,
        prompt: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        *,
        priority: typing.SupportsInt | typing.SupportsIndex = 0,
        client: typing.SupportsInt | typing.SupportsIndex = 0,
        every_row: bool = False,
        every_logit: bool = False,
        no_logits: bool = False,
        is_passing: bool = False,
    ) -> None: ...
    def append(
        self, arg0: typing.SupportsInt | typing.SupportsIndex, arg1: typing.SupportsInt | typing.SupportsIndex
    ) -> bool: ...
    def block_tables(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> list[list[int]]: ...
    def check_integrity(self) -> None: ...
    def complete(self, arg0: collections.abc.Sequence[dict]) -> None: ...
    def draft(
        self,
        arg0: typing.SupportsInt | typing.SupportsIndex,
        arg1: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> None: ...
    def finish(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def forget_prefixes(self) -> None: ...
    def fork(
        self, arg0: typing.SupportsInt | typing.SupportsIndex, arg1: typing.SupportsInt | typing.SupportsIndex
    ) -> list[tuple[int, int]]: ...
    def is_streaming(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> bool: ...
    def n_cached(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    def plan(self, prefill_rows: typing.SupportsInt | typing.SupportsIndex = 9223372036854775807) -> list: ...
    def restart(
        self,
        arg0: typing.SupportsInt | typing.SupportsIndex,
        arg1: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> None: ...
    def tokens(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> list[int]: ...
    @property
    def n_free(self) -> int: ...
    @property
    def n_preemptions(self) -> int: ...
    @property
    def n_running(self) -> int: ...
    @property
    def n_waiting(self) -> int: ...

class StepCost:
    def __init__(self) -> None: ...
    def observe(
        self,
        n_prompt_rows: typing.SupportsInt | typing.SupportsIndex,
        n_stream_rows: typing.SupportsInt | typing.SupportsIndex,
        seconds: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None: ...
    def prompt_rows_beside(
        self, n_stream_rows: typing.SupportsInt | typing.SupportsIndex, most: typing.SupportsInt | typing.SupportsIndex
    ) -> int: ...
    def prompt_rows_within(
        self, seconds: typing.SupportsFloat | typing.SupportsIndex, most: typing.SupportsInt | typing.SupportsIndex
    ) -> int: ...
    def prompt_seconds(self, n_rows: typing.SupportsInt | typing.SupportsIndex) -> float: ...
    def stream_row_seconds(self) -> float: ...
    def stream_seconds(self, n_rows: typing.SupportsInt | typing.SupportsIndex) -> float: ...

class StopMatcher:
    def __init__(self, stops: collections.abc.Sequence[bytes], include_stop: bool) -> None: ...
    def feed(self, arg0: bytes) -> bytes: ...
    def flush(self) -> bytes: ...
    @property
    def match(self) -> typing.Any: ...

def attention(
    level: str,
    kv_type: str,
    q: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    k: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    v: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    table: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    first_position: typing.SupportsInt | typing.SupportsIndex,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    softcap: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    window: typing.SupportsInt | typing.SupportsIndex = 0,
    sinks: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    n_threads: typing.SupportsInt | typing.SupportsIndex = 1,
    n_repeats: typing.SupportsInt | typing.SupportsIndex = 1,
    is_decode: bool = False,
    following: tuple[str, bytes] | None = None,
    gap: typing.SupportsInt | typing.SupportsIndex = 0,
) -> tuple:
    """
    (attended values, fastest seconds)
    """

def cut(
    level: str,
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    n: typing.SupportsInt | typing.SupportsIndex,
    deviations: typing.SupportsFloat | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.float32]: ...
def experts(
    level: str,
    format: str,
    stacks: collections.abc.Sequence[bytes],
    n_ff: typing.SupportsInt | typing.SupportsIndex,
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    chosen: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    weights: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    biases: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.float32]] = [],
    activation: typing.SupportsInt | typing.SupportsIndex = 1,
    limit: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    shift: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    n_threads: typing.SupportsInt | typing.SupportsIndex = 1,
    keep_raw: bool = False,
    n_repeats: typing.SupportsInt | typing.SupportsIndex = 1,
) -> tuple:
    """
    (hidden rows, sums, fastest seconds)
    """

def glu(
    level: str,
    activation: typing.SupportsInt | typing.SupportsIndex,
    gate: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    up: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
) -> numpy.typing.NDArray[numpy.float32]: ...
def kv_groups(
    layers: collections.abc.Sequence[
        tuple[
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
        ]
    ],
) -> tuple:
    """
    The groups' windows, and the group of each layer (window, kv heads, dim, memory, source).
    """

def kv_places(
    layers: collections.abc.Sequence[
        tuple[
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
            typing.SupportsInt | typing.SupportsIndex,
        ]
    ],
    kv_type: str = "f16",
) -> tuple:
    """
    Slots (memory, bytes) of a block, and of each layer (kv heads, dim, memory, group, source) its slot, offset there and bytes.
    """

def likely(
    level: str,
    logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    n: typing.SupportsInt | typing.SupportsIndex,
) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.float32]]:
    """
    (tokens, logits), best first
    """

def linear(
    level: str,
    format: str,
    blocks: bytes,
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    n_threads: typing.SupportsInt | typing.SupportsIndex = 1,
    keep_raw: bool = False,
    n_repeats: typing.SupportsInt | typing.SupportsIndex = 1,
) -> tuple:
    """
    (x @ W.T, fastest seconds, bytes of W as packed)
    """

def linear_glu(
    level: str,
    gate_format: str,
    gate_blocks: bytes,
    up_format: str,
    up_blocks: bytes,
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    activation: typing.SupportsInt | typing.SupportsIndex,
    following: tuple[str, bytes] | None = None,
) -> numpy.typing.NDArray[numpy.float32]: ...
def match_size(
    level: str,
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    like: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    floor: typing.SupportsFloat | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.float32]: ...
def mix(
    level: str,
    weights: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    to: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
) -> numpy.typing.NDArray[numpy.float32]: ...
def norm(
    level: str,
    layer: bool,
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    weight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    eps: typing.SupportsFloat | typing.SupportsIndex,
    following: tuple[str, bytes] | None = None,
) -> numpy.typing.NDArray[numpy.float32]:
    """
    following: (format, blocks) of a matrix that multiplies the result next.
    """

def norm_add(
    level: str,
    layer: bool,
    y: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    weight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    scale: typing.SupportsFloat | typing.SupportsIndex,
    eps: typing.SupportsFloat | typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.float32]: ...
def open_gpu_library(path: str) -> None:
    """
    Takes the GPU backend from another file from now on; an empty path: from the installed one.
    """

def rope(
    level: str,
    adjacent: bool,
    x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    inv_freq: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    positions: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
) -> numpy.typing.NDArray[numpy.float32]: ...
def route(
    level: str,
    logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    n_used: typing.SupportsInt | typing.SupportsIndex,
    is_sigmoid: bool = False,
    normalize: bool = True,
    scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    n_groups: typing.SupportsInt | typing.SupportsIndex = 1,
    n_groups_used: typing.SupportsInt | typing.SupportsIndex = 1,
    strengths: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.float32]]:
    """
    (experts, weights) of each row
    """

def set_cpu_level(level: str) -> None:
    """
    Models loaded from now on use this level.
    """

def store_heads(
    level: str,
    kv_type: str,
    q: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    k: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    v: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    q_norm: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None,
    k_norm: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None,
    adjacent: bool,
    inv_freq: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    positions: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    slots: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    n_blocks: typing.SupportsInt | typing.SupportsIndex,
) -> tuple:
    """
    (queries, bytes of the KV blocks)
    """
