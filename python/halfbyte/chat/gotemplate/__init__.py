"""Chat templates in Go's template language, as Modelfiles and Ollama's registry carry them."""

from halfbyte.chat.gotemplate.chat import GoChatTemplate, is_go_template

__all__ = ["GoChatTemplate", "is_go_template"]
