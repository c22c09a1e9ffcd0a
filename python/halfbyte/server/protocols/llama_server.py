"""What llama-server tells of itself: /props, /slots and /lora-adapters, which interfaces poll."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from halfbyte import __version__
from halfbyte.server.call import Call
from halfbyte.server.models import LoadedModel
from halfbyte.server.responses import Json

router = APIRouter(tags=["llama.cpp"])


@router.get("/props")
async def props(request: Request, model: str | None = None) -> Json:
    """The model, its context and its defaults."""
    found = await _model(request, model)
    llm, defaults = found.llm, found.defaults
    tokenizer = llm.tokenizer
    names = (
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "presence_penalty",
        "frequency_penalty", "mirostat", "dry_multiplier", "xtc_probability",
    )  # fmt: skip
    params = {name: getattr(defaults, name) for name in names}
    most = -1 if defaults.max_tokens is None else defaults.max_tokens
    return Json(
        {
            "default_generation_settings": {"n_ctx": llm.n_ctx, "params": {**params, "n_predict": most}},
            "total_slots": found.max_sequences,
            "model_alias": found.name,
            "model_path": str(llm.path),
            "modalities": {"vision": False, "audio": False},
            "chat_template": llm.chat_template.source,
            "bos_token": _piece(tokenizer, tokenizer.bos_id),
            "eos_token": _piece(tokenizer, tokenizer.eos_id),
            "build_info": f"halfbyte {__version__}",
        }
    )


def _piece(tokenizer: Any, token: int | None) -> str:
    return "" if token is None else str(tokenizer.piece(token))


@router.get("/slots")
async def slots(request: Request, model: str | None = None) -> Json:
    """The places for answers that run at once; the first ones are taken first."""
    found = await _model(request, model)
    n_running = found.llm.stats()["n_running"]
    places = range(found.max_sequences)
    return Json([{"id": i, "n_ctx": found.llm.n_ctx, "is_processing": i < n_running} for i in places])


@router.get("/lora-adapters")
async def adapters(request: Request, model: str | None = None) -> Json:
    """The loaded adapters; a request's `lora` names them by id."""
    loaded = (await _model(request, model)).llm.adapters
    return Json([{"id": i, "name": n, "scale": loaded.default.get(n, 0.0)} for i, n in enumerate(loaded.names)])


async def _model(request: Request, name: str | None) -> LoadedModel:
    """The model of that name; without one, one that is in memory: who looks on loads nothing."""
    call = Call.of(request)
    loaded = call.server.models.loaded()
    return await call.model(name or (loaded[0].name if loaded else None))
