"""/v1/rerank, as Jina's and Cohere's clients send it: documents by their likeness to a query."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from halfbyte.server.call import Call
from halfbyte.server.embed import embed, embed_ids
from halfbyte.server.responses import Json
from halfbyte.server.sampling import Body

router = APIRouter(tags=["rerank"])


class Document(Body):
    text: str


class RerankRequest(Body):
    model: str | None = None
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | Document], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None


@router.post("/v1/rerank")
@router.post("/v2/rerank", include_in_schema=False)
@router.post("/rerank", include_in_schema=False)
async def rerank(request: Request, body: RerankRequest) -> Json:
    """Documents with the cosine between their vector and the query's, best first."""
    call = Call.of(request)
    model = await call.model(body.model)
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    ids = await embed_ids(call, model, [body.query, *texts], "documents")
    vectors = await embed(call, model, ids, "documents")
    scores = vectors[1:] @ vectors[0]
    order = sorted(range(len(texts)), key=lambda i: -float(scores[i]))[: body.top_n]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": float(scores[i])} for i in order]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    n_tokens = sum(map(len, ids))
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return Json({"id": f"rerank-{call.id}", "model": model.name, "results": results, "usage": usage})
