"""What Ollama's endpoints share: times, durations, errors, and lines of JSON."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from starlette.responses import Response

from halfbyte.errors import HalfbyteError, InvalidArgumentError
from halfbyte.server.call import Call
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel
from halfbyte.server.responses import EventStream, Json, dumps

T = TypeVar("T")

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def error_body(error: ApiError) -> dict[str, Any]:
    """Ollama's errors are one text."""
    return {"error": error.message}


async def named_model(call: Call, name: str, keep_alive: float | str | None) -> tuple[LoadedModel, int]:
    """A model held by the call, and the nanoseconds that it took to have it. Raises ApiError."""
    begin = time.perf_counter()
    if not name:
        raise ApiError(400, "model is required")
    seconds = blaming("keep_alive", lambda: duration(keep_alive))
    try:
        model = await call.model(name)
    except ApiError as error:
        if error.code == "model_not_found":
            raise ApiError(404, f"model '{name[:200]}' not found", code=error.code) from error
        raise
    if keep_alive is not None:
        model.keep_alive_s = seconds
    return model, ns(time.perf_counter() - begin)


def blaming(param: str, function: Callable[[], T]) -> T:
    """What a function gives. Raises ApiError that blames a field when it fails."""
    try:
        return function()
    except HalfbyteError as error:
        raise ApiError.of(error, param=param) from error


def duration(value: float | str | None) -> float | None:
    """Seconds of a keep_alive: a number of them, or Go's "1h30m"; None for negative ones, which mean forever.

    Raises InvalidArgumentError."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        text = value.strip()
        sign = -1.0 if text.startswith("-") else 1.0
        text = text.lstrip("+-")
        if re.fullmatch(r"\d+(\.\d*)?", text):
            seconds = float(text)
        elif text and not _PART.sub("", text):
            seconds = sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text))
        else:
            raise InvalidArgumentError(
                f'"{value[:80]}" is no duration.',
                hint='Something like "5m", "1h30m" or a number of seconds was expected.',
            )
        seconds *= sign
    else:
        seconds = float(value)
    return min(seconds, 1e9) if seconds >= 0 else None


def ns(seconds: float) -> int:
    """Seconds in nanoseconds."""
    return round(seconds * 1e9)


def now() -> str:
    """This moment, as Ollama writes it."""
    return timestamp(time.time())


def timestamp(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC."""
    return (
        datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    )


def line(value: Any) -> bytes:
    """One line of a stream."""
    return dumps(value) + b"\n"


async def _encoded(lines: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for value in lines:
        yield line(value)


async def streamed(lines: AsyncIterator[dict[str, Any]], *, stream: bool | None) -> Response:
    """Lines as they come; without streaming the last one alone."""
    if stream is not False:
        return EventStream(_encoded(lines), "application/x-ndjson", lambda error: line(error_body(error)))
    last: dict[str, Any] = {}
    async for value in lines:
        last = value
    return Json(last)
