"""The ASGI app: every protocol's routes over one pool of models."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from halfbyte import __version__
from halfbyte.errors import HalfbyteError
from halfbyte.server import page
from halfbyte.server.config import ServerConfig
from halfbyte.server.errors import ApiError
from halfbyte.server.gate import Gate
from halfbyte.server.models import ModelPool
from halfbyte.server.protocols import PROTOCOLS
from halfbyte.server.responses import Json


@dataclass
class Server:
    """What all requests share."""

    models: ModelPool
    config: ServerConfig

    def error_body(self, path: str, error: ApiError) -> dict[str, Any]:
        """The error in the words of the protocol that the path belongs to."""
        for protocol in PROTOCOLS:
            prefix = getattr(protocol, "ERROR_PREFIX", None)
            if prefix and path.startswith(prefix):
                body: dict[str, Any] = protocol.error_body(error)
                return body
        return error.openai()


def create_app(models: ModelPool, config: ServerConfig | None = None) -> FastAPI:
    """The app over a pool of models. The pool is closed with the app."""
    server = Server(models, config or ServerConfig())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await models.close()

    app = FastAPI(title="halfbyte", version=__version__, lifespan=lifespan, default_response_class=Json)
    app.state.server = server
    for protocol in PROTOCOLS:
        app.include_router(protocol.router)
    app.include_router(page.router)
    app.add_middleware(Gate, server=server)

    def answer(request: Request, error: ApiError) -> Response:
        return Json(server.error_body(request.url.path, error), error.status, error.headers())

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return answer(request, error)

    @app.exception_handler(HalfbyteError)
    async def on_halfbyte_error(request: Request, error: HalfbyteError) -> Response:
        return answer(request, ApiError.of(error))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _of_validation(error))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        found = ApiError(error.status_code, str(error.detail))
        return Json(
            server.error_body(request.url.path, found), found.status, {**(error.headers or {}), **found.headers()}
        )

    return app


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, by the name of its field."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is no JSON: {first.get('ctx', {}).get('error', 'it does not parse')}.")
    name = ".".join(where) or None
    return ApiError(400, f"{name or 'The body'}: {first['msg']}.", param=name, code="invalid_value")
