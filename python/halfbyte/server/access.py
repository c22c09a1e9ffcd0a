"""Who may come in: host names, origins, API keys, and how often and how much."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections import Counter

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from starlette.datastructures import Headers

from halfbyte.server.config import ServerConfig
from halfbyte.server.errors import ApiError


class Keys:
    """API keys, compared in constant time: neither a key's place in the list nor its first letters show in the time."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in keys]

    def identify(self, headers: Headers) -> int | None:
        """The number of the key that the headers carry (from 1), 0 when none is needed, None when it is wrong."""
        if not self._digests:
            return 0
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest_given = hashlib.sha256(given.encode("latin-1")).digest()  # as headers are decoded: the bytes that came
        found = None
        for number, digest in enumerate(self._digests, 1):
            if hmac.compare_digest(digest_given, digest):
                found = number
        return found


def check_host(config: ServerConfig, headers: Headers) -> None:
    """Refuses names that the server was not told of: a web page's own name pointed at this machine (DNS rebinding)."""
    if config.allowed_hosts and _host_name(headers.get("host", "")) not in config.allowed_hosts:
        raise ApiError(403, "This server does not answer to that host name.", code="host_not_allowed")


def origins_pattern(config: ServerConfig) -> str:
    """A regular expression that matches the allowed origins; nothing when there are none."""
    return "|".join(re.escape(origin).replace(r"\*", ".*") for origin in config.allowed_origins) or r"(?!)"


def check_origin(config: ServerConfig, headers: Headers) -> None:
    """Refuses web pages of other hosts: browsers send some of their requests without asking first."""
    origin = headers.get("origin")
    if origin is None or re.fullmatch(origins_pattern(config), origin):
        return
    if origin.partition("://")[2] != headers.get("host"):
        raise ApiError(403, "Web pages of that origin may not use this server.", code="origin_not_allowed")


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.partition(":")[0].lower()


class Limits:
    """Requests a minute, tokens a minute and requests at once, of each client."""

    def __init__(self, config: ServerConfig) -> None:
        storage = MemoryStorage()
        self._requests = MovingWindowRateLimiter(storage)
        # Tokens are charged when they are known, which may be over the limit: windows that count on are wanted here.
        self._tokens = FixedWindowRateLimiter(storage)
        self._per_minute = RateLimitItemPerMinute(config.requests_per_minute) if config.requests_per_minute else None
        self._tokens_per_minute = RateLimitItemPerMinute(config.tokens_per_minute) if config.tokens_per_minute else None
        self._max_concurrent = config.max_concurrent
        self._n_running: Counter[str] = Counter()

    def enter(self, client: str) -> None:
        """Counts a request in. Raises ApiError 429. Every enter() that returned needs a leave()."""
        if self._max_concurrent and self._n_running[client] >= self._max_concurrent:
            raise _too_many(f"{self._max_concurrent} requests at once", 1)
        tokens, requests = self._tokens_per_minute, self._per_minute
        if tokens is not None and not self._tokens.test(tokens, "tokens", client):
            reset = self._tokens.get_window_stats(tokens, "tokens", client).reset_time
            raise _too_many(f"{tokens.amount} tokens a minute", reset - time.time())
        if requests is not None and not self._requests.hit(requests, "requests", client):
            reset = self._requests.get_window_stats(requests, "requests", client).reset_time
            raise _too_many(f"{requests.amount} requests a minute", reset - time.time())
        self._n_running[client] += 1

    def leave(self, client: str, n_tokens: int) -> None:
        """Counts a request out, and the tokens that it used."""
        self._n_running[client] -= 1
        if self._n_running[client] <= 0:
            del self._n_running[client]
        if self._tokens_per_minute is not None and n_tokens > 0:
            self._tokens.hit(self._tokens_per_minute, "tokens", client, cost=n_tokens)


def _too_many(limit: str, wait_s: float) -> ApiError:
    text = f"Rate limit reached: {limit}."
    return ApiError(429, text, code="rate_limit_exceeded", retry_after_s=max(1.0, wait_s))
