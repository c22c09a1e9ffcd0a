"""Messages to prompts: a model's own template, or a known one by name."""

from halfbyte.chat.builtin import BUILTIN_TEMPLATES, guess_template
from halfbyte.chat.chosen import chosen_template
from halfbyte.chat.gotemplate import GoChatTemplate, is_go_template
from halfbyte.chat.template import ChatTemplate

__all__ = ["BUILTIN_TEMPLATES", "ChatTemplate", "GoChatTemplate", "chosen_template", "guess_template", "is_go_template"]
