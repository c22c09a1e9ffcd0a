"""What every request passes: the checks at the door, the call's beginning and end, and errors as answers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halfbyte.server.access import Keys, Limits, check_host, check_origin
from halfbyte.server.call import Call
from halfbyte.server.errors import ApiError
from halfbyte.server.responses import Json
from halfbyte.server.state import Server
from halfbyte.server.traces import open_traces

log = logging.getLogger("halfbyte.server")

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# A body that stands still for so long is not coming.
_BODY_STALL_S = 30.0
_PROBES = ("/health", "/metrics")
_TO_DISK = "/api/blobs/"  # model files: written as they come, as far as the disk has room
# What curl and simple clients call a JSON body when nobody tells them.
_UNTOLD_TYPES = ("", "application/x-www-form-urlencoded", "text/plain")


class Gate:
    """ASGI middleware around the whole app. open_paths need no key (health checks, the page's files)."""

    def __init__(self, app: ASGIApp, server: Server, open_paths: frozenset[str]) -> None:
        self._app, self._server, self._open_paths = app, server, open_paths
        self._keys = Keys(server.config.api_keys)
        self._limits = Limits(server.config)
        self._traces = open_traces()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        wanted_id = headers.get("x-request-id", "")
        call = Call(self._server, receive, wanted_id if _REQUEST_ID.fullmatch(wanted_id) else uuid.uuid4().hex)
        scope["halfbyte.call"] = call
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = call.id
            await send(message)

        entered = False
        try:
            self._admit(call, scope, headers)
            entered = True
            await self._app(scope, self._bounded(receive, headers, scope["path"]), send_with_id)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("request %s failed", call.id)
                error = ApiError(500, "The server failed; its log tells why.")
            if not status:
                answer = Json(self._server.error_body(scope["path"], error), error.status, error.answer_headers())
                await answer(scope, receive, send_with_id)
        finally:
            usage = call.usage()
            call.close()
            if entered:
                self._limits.leave(call.client, usage.prompt_tokens + usage.completion_tokens)
            self._tell(call, scope, headers, status)

    def _admit(self, call: Call, scope: Scope, headers: MutableHeaders) -> None:
        check_host(self._server.config, headers)
        check_origin(self._server.config, headers)
        key = self._keys.identify(headers)
        if key is None and scope["path"] not in self._open_paths:
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
        call.client = f"key {key}" if key else scope["client"][0] if scope.get("client") else "local"
        if headers.get("content-type", "").partition(";")[0].strip().lower() in _UNTOLD_TYPES:
            headers["content-type"] = "application/json"
        self._limits.enter(call.client)

    def _bounded(self, receive: Receive, headers: Headers, path: str) -> Receive:
        limit = 0 if path.startswith(_TO_DISK) else self._server.config.max_body_bytes
        announced = headers.get("content-length", "")
        if limit and announced.isdecimal() and int(announced[:20]) > limit:
            raise _too_large(limit)
        n_bytes, is_whole = 0, False

        async def receive_bounded() -> Message:
            nonlocal n_bytes, is_whole
            try:
                message = await asyncio.wait_for(receive(), None if is_whole else _BODY_STALL_S)
            except TimeoutError:
                raise ApiError(408, "The body did not arrive.", code="request_timeout") from None
            is_whole = not message.get("more_body", False)
            n_bytes += len(message.get("body", b""))
            if limit and n_bytes > limit:
                raise _too_large(limit)
            return message

        return receive_bounded

    def _tell(self, call: Call, scope: Scope, headers: Headers, status: int) -> None:
        seconds = time.perf_counter() - call.started
        self._server.metrics.request(scope.get("route"), scope["method"], status, seconds)
        usage = call.usage()
        facts = {
            "request": call.id,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
            "client": call.client,
            **call.facts,
        }
        if call.client_gone:
            facts["client_gone"] = True
        if call.jobs:
            facts |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        if self._traces is not None:
            self._traces.record(scope.get("route"), headers, seconds, facts)
        # Probes ask every few seconds: their lines are for those who look for them.
        level = logging.DEBUG if scope["path"] in _PROBES and status == 200 else logging.INFO
        log.log(level, "request", extra={"facts": facts})


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body is larger than {limit} bytes.", code="request_too_large")
