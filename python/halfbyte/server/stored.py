"""Responses that are kept for a while, so that a client may ask for them again and go on from them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfbyte.server.responses import dumps


@dataclass(frozen=True)
class Stored:
    """A response as it was sent, the items that asked for it, and the conversation up to it and with it."""

    response: dict[str, Any]
    asked: list[dict[str, Any]]
    messages: Sequence[Mapping[str, Any]]


class ResponseStore:
    """Keeps the latest responses, in memory, up to max_bytes; each client sees its own. They are kept as JSON: as objects
    they would take ten times their share."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._n_bytes = 0

    def put(
        self, client: str, response: dict[str, Any], asked: list[dict[str, Any]], messages: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keeps a response; those that were used longest ago make room. One that is too large by itself is not kept."""
        data = dumps([response, asked, messages])
        if len(data) > self._max_bytes:
            return
        self._kept[client, response["id"]] = data
        self._n_bytes += len(data)
        while self._n_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._n_bytes -= len(oldest)

    def get(self, client: str, name: str) -> Stored | None:
        """A client's response of that id."""
        found = self._kept.get((client, name))
        if found is None:
            return None
        self._kept.move_to_end((client, name))
        return Stored(*json.loads(found))

    def remove(self, client: str, name: str) -> bool:
        """Whether there was one to forget."""
        found = self._kept.pop((client, name), None)
        self._n_bytes -= len(found) if found is not None else 0
        return found is not None
