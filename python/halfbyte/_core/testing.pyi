"""
One op at one CPU level on numpy arrays. For tests and micro-benchmarks.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['StopMatcher', 'attention', 'glu', 'linear', 'norm', 'set_cpu_level']
class StopMatcher:
    def __init__(self, stops: collections.abc.Sequence[bytes], include_stop: bool) -> None:
        ...
    def feed(self, arg0: bytes) -> bytes:
        ...
    def flush(self) -> bytes:
        ...
    @property
    def match(self) -> typing.Any:
        ...
def attention(level: str, kv_type: str, q: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], k: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], v: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], table: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], first_position: typing.SupportsInt | typing.SupportsIndex, scale: typing.SupportsFloat | typing.SupportsIndex, softcap: typing.SupportsFloat | typing.SupportsIndex = 0.0, window: typing.SupportsInt | typing.SupportsIndex = 0, sinks: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None, n_threads: typing.SupportsInt | typing.SupportsIndex = 1, n_repeats: typing.SupportsInt | typing.SupportsIndex = 1) -> tuple:
    """
    (attended values, fastest seconds)
    """
def glu(level: str, activation: typing.SupportsInt | typing.SupportsIndex, gate: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], up: typing.Annotated[numpy.typing.ArrayLike, numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
    ...
def linear(level: str, format: str, blocks: bytes, x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], n_threads: typing.SupportsInt | typing.SupportsIndex = 1, keep_raw: bool = False, n_repeats: typing.SupportsInt | typing.SupportsIndex = 1) -> tuple:
    """
    (x @ W.T, fastest seconds, bytes of W as packed)
    """
def norm(level: str, layer: bool, x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], weight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], eps: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float32]:
    ...
def set_cpu_level(level: str) -> None:
    """
    Models loaded from now on use this level.
    """
