"""OpenAI's /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field

from halfbyte.server.call import Call
from halfbyte.server.embed import embed, embed_ids
from halfbyte.server.errors import ApiError
from halfbyte.server.responses import Json
from halfbyte.server.sampling import Body, Texts, as_texts

router = APIRouter(tags=["openai"])


class EmbeddingRequest(Body):
    model: str | None = None
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1 << 20)] | None = None


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingRequest) -> Json:
    """A vector of length 1 for each text."""
    call = Call.of(request)
    model = await call.model(body.model)
    n_embd = int(model.llm.config["n_embd"])
    if body.dimensions is not None and body.dimensions > n_embd:
        text = f"{body.dimensions} dimensions were asked for; {model.name} has {n_embd}."
        raise ApiError(400, text, param="dimensions")
    ids = await embed_ids(call, model, as_texts(body.input), "input")
    vectors = await embed(call, model, ids, "input")
    if body.dimensions is not None:
        vectors = vectors[:, : body.dimensions]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def shown(vector: Any) -> Any:
        if body.encoding_format == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return [float(x) for x in vector]

    n_tokens = sum(map(len, ids))
    return Json(
        {
            "object": "list",
            "model": model.name,
            "data": [{"object": "embedding", "index": i, "embedding": shown(v)} for i, v in enumerate(vectors)],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    )
