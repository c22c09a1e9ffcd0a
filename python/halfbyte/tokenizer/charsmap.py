"""SentencePiece's table of normalizations (precompiled_charsmap), checked before the library sees it."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from halfbyte.errors import FormatError


def check_charsmap(table: bytes) -> bytes:
    """The table itself: a 32-bit size in bytes, a trie of so many (32-bit units), then the texts it leads to.

    The library takes memory for whatever size is claimed, and ends the process when there is not as much.
    """
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size > len(table) - 4 or size % 4:
        raise FormatError(f"precompiled_charsmap is damaged: {len(table)} bytes that begin with a trie of {size}.")
    return table


def check_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json's object_pairs_hook: every object, those that a later key of the same name replaces too."""
    value = dict(pairs)
    charsmap = value.get("precompiled_charsmap")
    if isinstance(charsmap, str):
        try:
            table = base64.b64decode(charsmap, validate=True)
        except (binascii.Error, ValueError):
            return value  # the library says so
        check_charsmap(table)
    return value
