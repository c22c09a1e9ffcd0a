"""What all requests of a server share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from halfbyte.server.config import ServerConfig
from halfbyte.server.errors import ApiError
from halfbyte.server.metrics import Metrics
from halfbyte.server.models import ModelPool
from halfbyte.server.stored import ResponseStore


@dataclass
class Server:
    """The models, and what is kept beside them."""

    models: ModelPool
    config: ServerConfig
    metrics: Metrics
    responses: ResponseStore
    #: Error bodies of the protocols that do not speak OpenAI's, by the prefix of their paths.
    error_bodies: Mapping[str, Callable[[ApiError], dict[str, Any]]]

    def error_body(self, path: str, error: ApiError) -> dict[str, Any]:
        """The error in the words of the protocol that the path belongs to."""
        for prefix, body in self.error_bodies.items():
            if path.startswith(prefix):
                return body(error)
        return error.openai()
