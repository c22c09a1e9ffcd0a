"""Vectors of texts, for the protocols that give or compare them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from halfbyte.llm import EMBEDDED_AT_ONCE
from halfbyte.server.call import Call
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel


async def embed_ids(call: Call, model: LoadedModel, texts: Sequence[str | list[int]], param: str) -> list[list[int]]:
    """Token ids of each text. Raises ApiError for texts that cannot be embedded."""
    limit = call.server.config.max_inputs
    if len(texts) > limit:
        raise ApiError(400, f"{len(texts)} texts were given; {limit} are allowed in a request.", param=param)
    many = await call.work(param, lambda: [model.llm.tokenize(t) if isinstance(t, str) else t for t in texts])
    for i, ids in enumerate(many):
        call.check_length(len(ids), param)
        if not ids:
            raise ApiError(400, f"Text {i} is empty.", param=param)
        if len(ids) > model.llm.n_ctx:
            text = f"Text {i} has {len(ids)} tokens; the context holds {model.llm.n_ctx}."
            raise ApiError(400, text, param=param, code="context_length_exceeded")
    return many


async def embed(call: Call, model: LoadedModel, ids: list[list[int]], param: str) -> npt.NDArray[np.float32]:
    """One row for each text, of length 1: float32, shape (n_texts, n_embd). A client that goes away leaves the rest."""
    rows = []
    call.watch()
    for i in range(0, len(ids), EMBEDDED_AT_ONCE):
        rows.append(await call.work(param, model.llm.embed, ids[i : i + EMBEDDED_AT_ONCE]))
        if call.client_gone:
            raise ApiError(499, "The client has gone.")
    return np.concatenate(rows)
