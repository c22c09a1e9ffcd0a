"""The ASGI app: every protocol's routes over one pool of models."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from halfbyte import __version__
from halfbyte.errors import HalfbyteError
from halfbyte.server import page
from halfbyte.server.access import origins_pattern
from halfbyte.server.config import ServerConfig
from halfbyte.server.errors import ApiError
from halfbyte.server.gate import Gate
from halfbyte.server.metrics import Metrics
from halfbyte.server.models import ModelPool
from halfbyte.server.protocols import PROTOCOLS
from halfbyte.server.responses import Json
from halfbyte.server.state import Server
from halfbyte.server.stored import ResponseStore


def create_app(models: ModelPool, config: ServerConfig | None = None) -> FastAPI:
    """The app over a pool of models. The pool is closed with the app."""
    config = config or ServerConfig()
    error_bodies = {p.ERROR_PREFIX: p.error_body for p in PROTOCOLS if hasattr(p, "ERROR_PREFIX")}
    server = Server(models, config, Metrics(models), ResponseStore(config.max_stored_bytes), error_bodies)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await models.close()

    # FastAPI's documentation pages load scripts from other hosts; the schema itself is at /openapi.json.
    app = FastAPI(title="halfbyte", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    for protocol in PROTOCOLS:
        app.include_router(protocol.router)
    app.include_router(page.router)
    app.add_middleware(Gate, server=server, open_paths=frozenset(("/", "/health")))
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origin_regex=origins_pattern(config),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )

    def answer(request: Request, error: ApiError) -> Response:
        return Json(server.error_body(request.url.path, error), error.status, error.answer_headers())

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
        path, message = request.url.path, str(error.detail)
        if error.status_code == 404:
            message = f"There is nothing at {path}."
            if f"/v1{path}" in app.openapi()["paths"]:
                message += f" Did you mean /v1{path}? Base URLs of OpenAI's clients end with /v1."
        found = ApiError(error.status_code, message)
        return Json(
            server.error_body(path, found),
            found.status,
            {**(error.headers or {}), **found.answer_headers()},
        )

    return app


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, by the name of its field."""
    found = error.errors()[0]
    if found["type"] == "json_invalid":
        return ApiError(400, f"The body is no JSON: {found.get('ctx', {}).get('error', 'it does not parse')}.")
    where = [part for part in found["loc"] if part not in ("body", "query", "path", "header")]
    name = str(where[0]) if where else None
    # Below a field pydantic also names the alternatives that it tried; only places in the body are of interest.
    inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where[1:] if _is_place(part))
    return ApiError(400, f"{name or 'The body'}{inner}: {found['msg']}.", param=name, code="invalid_value")


def _is_place(part: int | str) -> bool:
    return isinstance(part, int) or (
        part.isidentifier() and part not in ("str", "int", "float", "bool", "list", "dict")
    )
