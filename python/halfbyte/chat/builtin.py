"""Chat templates by name, for files that carry none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SYSTEM_FIRST = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set turns = messages[1:] if messages[0]['role'] == 'system' else messages %}"
)

BUILTIN_TEMPLATES: dict[str, str] = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama-2": (
        _SYSTEM_FIRST + "{% for m in turns %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] "
        "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}{{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "llama-3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        _SYSTEM_FIRST + "{{ bos_token }}{% for m in turns %}<start_of_turn>"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{% if loop.first and system %}{{ system }}\n\n{% endif %}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "phi-3": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "mistral": (
        _SYSTEM_FIRST + "{{ bos_token }}{% for m in turns %}{% if m['role'] == 'user' %}[INST] "
        "{% if loop.last and system %}{{ system }}\n\n{% endif %}{{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "vicuna": (
        _SYSTEM_FIRST + "{{ bos_token }}{{ system or 'A chat between a curious user and an artificial intelligence "
        "assistant. The assistant gives helpful, detailed, and polite answers to the user\\'s questions.' }} "
        "{% for m in turns %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} "
        "{% else %}ASSISTANT: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "alpaca": (
        _SYSTEM_FIRST + "{{ system or 'Below is an instruction that describes a task. Write a response that "
        "appropriately completes the request.' }}\n\n"
        "{% for m in turns %}{% if m['role'] == 'user' %}### Instruction:\n{{ m['content'] }}\n\n"
        "{% else %}### Response:\n{{ m['content'] }}{{ eos_token }}\n\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
}

# A template is recognized by tokens that no other family has.
_SIGNS = (
    ("chatml", ("<|im_start|>",)),
    ("llama-3", ("<|start_header_id|>", "<|eot_id|>")),
    ("gemma", ("<start_of_turn>",)),
    ("phi-3", ("<|user|>", "<|end|>")),
    ("mistral", ("[INST]", "[/INST]")),
    ("zephyr", ("<|user|>",)),
)


def guess_template(tokens: set[str], metadata: Mapping[str, Any]) -> str:
    """The name of the template that fits a vocabulary without one; "chatml" where nothing tells."""
    for name, signs in _SIGNS:
        if all(sign in tokens for sign in signs):
            return name
    if metadata.get("tokenizer.ggml.model") == "llama" and metadata.get("general.architecture") == "llama":
        return "llama-2"
    return "chatml"
