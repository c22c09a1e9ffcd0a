"""The chat template of a model: the one that is asked for, or its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfbyte.chat.builtin import BUILTIN_TEMPLATES
from halfbyte.chat.gotemplate import GoChatTemplate, is_go_template
from halfbyte.chat.template import ChatTemplate


def chosen_template(wanted: str | None, metadata: Mapping[str, Any]) -> ChatTemplate | GoChatTemplate:
    """wanted: a known template's name, Jinja or Go text, a file of it, or a variant that the model's file has."""
    if wanted is None:
        return ChatTemplate.from_metadata(metadata)
    variables = ChatTemplate.from_metadata({k: v for k, v in metadata.items() if "chat_template" not in k}).variables
    if wanted in BUILTIN_TEMPLATES:
        return ChatTemplate.builtin(wanted, variables)
    text, name = wanted, "--chat-template"
    if "{" not in wanted and Path(wanted).is_file():
        text, name = Path(wanted).read_text(encoding="utf-8"), wanted
    if is_go_template(text):
        return GoChatTemplate(text, name=name, variables=variables)
    if "{" in text:
        return ChatTemplate(text, name=name, variables=variables)
    if f"tokenizer.chat_template.{wanted}" in metadata:
        return ChatTemplate.from_metadata(metadata, variant=wanted)
    return ChatTemplate.builtin(wanted)
