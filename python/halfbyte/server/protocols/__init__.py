"""Every protocol that the server speaks: one file each, listed here.

A protocol is a module with `router` (an APIRouter). When its errors are not OpenAI's, it has ERROR_PREFIX, the prefix
of its paths, and error_body(ApiError) -> dict.
"""

from types import ModuleType

from halfbyte.server.protocols import (
    anthropic,
    llama_completion,
    llama_server,
    ollama,
    ollama_models,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    openai_responses,
    operations,
    rerank,
    tokens,
)

PROTOCOLS: tuple[ModuleType, ...] = (
    openai_chat,
    openai_completions,
    openai_models,
    operations,
    openai_responses,
    anthropic,
    tokens,
    rerank,
    openai_embeddings,
    llama_completion,
    llama_server,
    ollama,
    ollama_models,
)
