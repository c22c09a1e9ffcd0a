"""How a server is set up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerConfig:
    """Limits and doors of a server. None or 0 in a limit means no limit, unless its comment says otherwise."""

    api_keys: tuple[str, ...] = ()  # none: open to everyone who reaches the port
    allowed_origins: tuple[
        str, ...
    ] = ()  # web pages that may call the API, "*" for any letters; the server's own always may
    allowed_hosts: tuple[str, ...] = ()  # names in the Host header; none: all

    max_body_bytes: int = 32 << 20
    max_prompt_tokens: int = 0  # besides the context's size
    max_output_tokens: int = 0
    max_choices: int = 64  # prompts times answers of one request
    max_inputs: int = 2048  # texts of one request for vectors
    max_queue: int = 512  # answers waiting for their turn; beyond: 503
    max_stored_bytes: int = 64 << 20  # of responses that clients may go on from; 0: none are kept
    request_timeout_s: float = 0.0

    requests_per_minute: int = 0  # of each key
    tokens_per_minute: int = 0
    max_concurrent: int = 0

    shutdown_timeout_s: float = 60.0  # for running requests after SIGTERM
    log_prompts: bool = False
