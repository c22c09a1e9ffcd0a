"""OpenAI's /v1/models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from halfbyte.server.call import Call
from halfbyte.server.errors import ApiError
from halfbyte.server.models import ModelCard
from halfbyte.server.responses import Json

router = APIRouter(tags=["openai"])


@router.head("/v1/models", include_in_schema=False)
@router.get("/v1/models")
async def list_models(request: Request) -> Json:
    """Every model that requests may name."""
    return Json({"object": "list", "data": [_card(card) for card in Call.of(request).server.models.cards()]})


@router.get("/v1/models/{name:path}")
async def show_model(request: Request, name: str) -> Json:
    """One model."""
    for card in Call.of(request).server.models.cards():
        if card.name == name:
            return Json(_card(card))
    raise ApiError(404, f'The model "{name}" does not exist.', param="model", code="model_not_found")


def _card(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "halfbyte",
        "max_model_len": card.n_ctx,
        "parent": card.parent,
    }
