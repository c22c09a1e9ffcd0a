"""How answers leave: JSON at once, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from halfbyte.errors import HalfbyteError
from halfbyte.server.errors import ApiError

log = logging.getLogger("halfbyte.server")

# A comment goes out when nothing else does for so long: proxies close silent connections.
_PING_S = 15.0
# A client that takes nothing for so long is given up: what the request holds is wanted elsewhere.
_STALL_S = 60.0

DONE = b"data: [DONE]\n\n"


def dumps(value: Any) -> bytes:
    """Compact UTF-8 JSON. Text that is no Unicode becomes "?"; no number may be infinite."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def _refusal(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HalfbyteError):
        return ApiError.of(error)
    log.error("a stream failed", exc_info=error)
    return ApiError(500, "The server failed; its log tells why.")


class Json(JSONResponse):
    """A JSON answer."""

    def render(self, content: Any) -> bytes:
        return dumps(content)


def event(data: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + dumps(data) + b"\n\n"


def _openai_error(error: ApiError) -> bytes:
    return event(error.openai())


class EventStream(Response):
    """Server-sent events (or other chunks) as they come. That the client has gone is seen by the call, which ends the
    jobs that feed the iterator. on_error makes the last chunk of a stream that fails."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        media_type: str = "text/event-stream",
        on_error: Callable[[ApiError], bytes] = _openai_error,
    ) -> None:
        super().__init__(media_type=media_type)
        self.raw_headers = [(k, v) for k, v in self.raw_headers if k != b"content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        self._chunks = chunks
        self._on_error = on_error
        self._n_sent = 0
        self._ping = b": ping\n\n" if media_type == "text/event-stream" else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pings = asyncio.create_task(self._send_pings(send)) if self._ping else None
        try:
            async for chunk in self._chunks:
                self._n_sent += 1
                async with asyncio.timeout(_STALL_S):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                # Neither send nor a chunk that is there already waits: that the client has gone is heard in between.
                await asyncio.sleep(0)
        except TimeoutError:
            raise ApiError(408, "The client stopped reading.") from None
        except Exception as error:
            chunk = self._on_error(_refusal(error))
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            if pings is not None:
                pings.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_pings(self, send: Send) -> None:
        while True:
            n_sent = self._n_sent
            await asyncio.sleep(_PING_S)
            if self._n_sent == n_sent:
                await send({"type": "http.response.body", "body": self._ping, "more_body": True})
