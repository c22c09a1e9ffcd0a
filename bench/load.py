"""Load on an OpenAI server: seeded prompts, clients that ask at random times, and what each answer took."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "his",
    "but",
    "at",
    "are",
    "this",
    "have",
    "from",
    "or",
    "had",
    "an",
    "they",
    "which",
    "one",
    "you",
    "were",
    "her",
    "all",
    "she",
    "there",
    "would",
    "their",
    "we",
    "him",
    "been",
    "has",
    "when",
    "who",
    "will",
    "more",
    "no",
    "if",
    "out",
    "so",
    "said",
    "what",
    "up",
    "its",
    "about",
    "into",
    "than",
    "them",
    "can",
    "only",
    "other",
    "new",
    "some",
    "could",
    "time",
    "these",
    "two",
    "may",
    "then",
    "do",
    "first",
    "any",
    "my",
    "now",
    "such",
    "like",
    "our",
    "over",
    "man",
    "me",
    "even",
    "most",
    "made",
    "after",
    "also",
    "did",
    "many",
    "before",
    "must",
    "through",
    "back",
    "years",
    "where",
    "much",
    "your",
    "way",
    "well",
    "down",
    "should",
    "because",
    "each",
    "just",
    "those",
    "people",
    "how",
    "too",
    "little",
    "state",
    "good",
    "very",
    "make",
    "world",
    "still",
    "own",
    "see",
    "men",
    "work",
    "long",
    "get",
    "here",
    "between",
    "both",
    "life",
    "being",
    "under",
    "never",
    "day",
    "same",
    "another",
    "know",
    "while",
    "last",
    "might",
    "us",
    "great",
    "old",
    "year",
    "off",
    "come",
    "since",
    "against",
    "go",
    "came",
    "right",
    "used",
    "take",
]


@dataclass(frozen=True)
class Ask:
    """One request of the load. follow_up: what the client says after the answer, in the same chat."""

    kind: str
    messages: tuple[dict[str, str], ...]
    max_tokens: int
    follow_up: str = ""


@dataclass
class Answer:
    """What came back, in seconds. gaps: between events that carried text."""

    kind: str
    first_token: float = 0.0
    total: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    text: str = ""
    error: str = ""


def prose(draw: random.Random, n_words: int) -> str:
    return " ".join(draw.choices(WORDS, k=n_words))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def workload(seed: int, n: int) -> list[Ask]:
    """A mix: half short questions, a quarter long texts to sum up, a quarter chats over one long system prompt."""
    draw = random.Random(seed)
    system = {"role": "system", "content": prose(draw, 980)}
    asks = []
    for i in range(n):
        kind = ("short", "chat", "short", "long")[i % 4]
        if kind == "short":
            asks.append(Ask(kind, (user(prose(draw, draw.randint(12, 60))),), draw.randint(48, 128)))
        elif kind == "long":
            text = prose(draw, draw.randint(400, 1000))
            asks.append(Ask(kind, (user(f"{text}\n\nSum this up."),), draw.randint(32, 64)))
        else:
            question, follow_up = prose(draw, draw.randint(10, 30)), prose(draw, draw.randint(10, 30))
            asks.append(Ask(kind, (system, user(question)), draw.randint(32, 96), follow_up))
    return asks


class Client:
    """Asks one server."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self._session, self._url, self._model = session, url, model

    async def ask(self, kind: str, messages: Sequence[dict[str, str]], max_tokens: int) -> Answer:
        """Streams one answer of exactly max_tokens tokens. A failure is told in Answer.error."""
        answer = Answer(kind)
        body = {
            "model": self._model, "messages": list(messages), "max_tokens": max_tokens, "ignore_eos": True,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        start = last = time.perf_counter()
        try:
            async for chunk in self._chunks(body):
                if usage := chunk.get("usage"):
                    answer.prompt_tokens = usage["prompt_tokens"]
                    answer.completion_tokens = usage["completion_tokens"]
                    answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
                if text := (delta.get("content") or delta.get("reasoning_content")):
                    now = time.perf_counter()
                    if answer.first_token:
                        answer.gaps.append(now - last)
                    else:
                        answer.first_token = now - start
                    last = now
                    answer.text += text
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            answer.error = f"{type(error).__name__}: {error}"
        answer.total = time.perf_counter() - start
        if not answer.error and not answer.completion_tokens:
            answer.error = "the stream ended without its usage"
        return answer

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                raise ValueError(f"{response.status} {(await response.text())[:200]}")
            async for line in response.content:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        raise ValueError(chunk["error"])
                    yield chunk


async def poisson(client: Client, asks: Sequence[Ask], n_clients: int, pause: float, seed: int) -> list[Answer]:
    """n_clients take turns with the asks; each waits an exponential time (mean `pause` seconds) before every request."""
    waiting = iter(asks)
    answers: list[Answer] = []

    async def one(draw: random.Random) -> None:
        for ask in waiting:
            await asyncio.sleep(draw.expovariate(1 / pause) if pause else 0)
            answer = await client.ask(ask.kind, ask.messages, ask.max_tokens)
            answers.append(answer)
            if ask.follow_up and not answer.error:
                turns = [*ask.messages, {"role": "assistant", "content": answer.text}, user(ask.follow_up)]
                answers.append(await client.ask("follow-up", turns, ask.max_tokens))

    await asyncio.gather(*(one(random.Random(seed * 1000 + i)) for i in range(n_clients)))
    return answers


async def shared_prefix(client: Client, seed: int, n: int = 5) -> dict[str, float]:
    """TTFT of a fresh system prompt of about a thousand tokens, and the median of the next n requests that share it."""
    draw = random.Random(f"prefix {seed}")
    system = {"role": "system", "content": prose(draw, 980)}
    answers = [await client.ask("prefix", (system, user(prose(draw, 12))), 8) for _ in range(n + 1)]
    first, later = answers[0], answers[1:]
    return {
        "prompt_tokens": first.prompt_tokens,
        "first_s": first.first_token,
        "later_s": statistics.median(answer.first_token for answer in later),
        "cached_tokens": later[-1].cached_tokens,
    }


async def long_prompt_beside_streams(client: Client, seed: int, n_streams: int = 4) -> dict[str, float]:
    """Median gap of running streams before, and while, a prompt of about 4,000 tokens is read in."""
    draw = random.Random(f"stall {seed}")
    long = prose(draw, 3900)
    seen: list[tuple[float, float]] = []

    async def stream() -> None:
        answer = await client.ask("stream", (user(prose(draw, 20)),), 400)
        at = answer.first_token
        for gap in answer.gaps:
            at += gap
            seen.append((at, gap))

    start = time.perf_counter()
    streams = asyncio.gather(*(stream() for _ in range(n_streams)))
    await asyncio.sleep(1.0)
    begin = time.perf_counter() - start
    answer = await client.ask("long", (user(long),), 1)
    end = begin + answer.total
    await streams
    before = [gap for at, gap in seen if at < begin]
    during = [gap for at, gap in seen if begin <= at <= end] or [end - begin]
    return {
        "prompt_tokens": answer.prompt_tokens,
        "first_token_s": answer.total,
        "gap_before_s": statistics.median(before) if before else 0.0,
        "gap_during_s": statistics.median(during),
        "longest_gap_during_s": max(during),
    }


def summary(answers: Sequence[Answer], wall: float) -> dict[str, Any]:
    """Throughput in tokens a second; latencies in seconds: p50, p95, p99."""
    good = [answer for answer in answers if not answer.error]
    gaps = [gap for answer in good for gap in answer.gaps]
    per_token = [
        sum(answer.gaps) / (answer.completion_tokens - 1)
        for answer in good
        if answer.gaps and answer.completion_tokens > 1
    ]
    return {
        "requests": len(answers),
        "failed": len(answers) - len(good),
        "errors": sorted({answer.error for answer in answers if answer.error})[:5],
        "wall_s": wall,
        "generated_tokens_per_second": sum(a.completion_tokens for a in good) / wall,
        "prompt_tokens_per_second": sum(a.prompt_tokens for a in good) / wall,
        "cached_share": sum(a.cached_tokens for a in good) / max(1, sum(a.prompt_tokens for a in good)),
        "first_token_s": quantiles([a.first_token for a in good]),
        "between_tokens_s": quantiles(gaps),
        "per_output_token_s": quantiles(per_token),
        "whole_answer_s": quantiles([a.total for a in good]),
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return dict.fromkeys(("p50", "p95", "p99"), values[0] if values else 0.0)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
