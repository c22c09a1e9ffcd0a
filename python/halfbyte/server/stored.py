"""Responses that are kept for a while, so that a client may ask for them again and go on from them."""

from __future__ import annotations

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
    n_bytes: int = 0


class ResponseStore:
    """Keeps the latest responses, in memory, up to max_bytes of JSON; each client sees its own."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], Stored] = OrderedDict()
        self._n_bytes = 0

    def put(
        self, client: str, response: dict[str, Any], asked: list[dict[str, Any]], messages: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keeps a response; those that were used longest ago make room. One that is too large by itself is not kept."""
        n_bytes = sum(len(dumps(part)) for part in (response, asked, messages))
        if n_bytes > self._max_bytes:
            return
        self._kept[client, response["id"]] = Stored(response, asked, messages, n_bytes)
        self._n_bytes += n_bytes
        while self._n_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._n_bytes -= oldest.n_bytes

    def get(self, client: str, name: str) -> Stored | None:
        """A client's response of that id."""
        found = self._kept.get((client, name))
        if found is not None:
            self._kept.move_to_end((client, name))
        return found

    def remove(self, client: str, name: str) -> bool:
        """Whether there was one to forget."""
        found = self._kept.pop((client, name), None)
        self._n_bytes -= found.n_bytes if found is not None else 0
        return found is not None
