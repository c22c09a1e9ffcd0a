"""What every request passes: a request id, the checks at the door, the call's end, and errors as answers."""

from __future__ import annotations

import logging
import re
import uuid
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halfbyte.server.call import Call
from halfbyte.server.errors import ApiError
from halfbyte.server.responses import Json

if TYPE_CHECKING:
    from halfbyte.server.app import Server

log = logging.getLogger("halfbyte.server")

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")


class Gate:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted_id = Headers(scope=scope).get("x-request-id", "")
        call = Call(self._server, receive, wanted_id if _REQUEST_ID.fullmatch(wanted_id) else uuid.uuid4().hex)
        scope["halfbyte.call"] = call
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = call.id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("request %s failed", call.id)
                error = ApiError(500, "The server failed; its log tells why.")
            if not started:
                answer = Json(self._server.error_body(scope["path"], error), error.status, error.headers())
                await answer(scope, receive, send_with_id)
        finally:
            await call.close()
