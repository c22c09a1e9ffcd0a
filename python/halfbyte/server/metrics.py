"""Metrics for Prometheus: the names that vLLM's dashboards know, and our own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from halfbyte.outputs import Piece
from halfbyte.server.bridge import Observer
from halfbyte.server.models import ModelPool

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


class Metrics:
    """One registry for one app."""

    def __init__(self, models: ModelPool) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(models))

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, ["model_name"], buckets=buckets, registry=self._registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ["model_name", *labels], registry=self._registry)

        self.first_token = histogram("vllm:time_to_first_token_seconds", "From arrival to the first token.", _SECONDS)
        self.between_tokens = histogram("vllm:inter_token_latency_seconds", "Between tokens of an answer.", _SECONDS)
        self.per_token = histogram("vllm:time_per_output_token_seconds", "Mean of each answer.", _SECONDS)
        self.latency = histogram("vllm:e2e_request_latency_seconds", "From arrival to the last token.", _SECONDS)
        self.queue_time = histogram("vllm:request_queue_time_seconds", "From arrival to the first step.", _SECONDS)
        self.n_prompt = histogram("vllm:request_prompt_tokens", "Prompt tokens of an answer.", _TOKENS)
        self.n_generated = histogram("vllm:request_generation_tokens", "Generated tokens of an answer.", _TOKENS)
        self.success = counter("vllm:request_success", "Finished answers.", "finished_reason")
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens of finished answers.")
        self.generated_tokens = counter("vllm:generation_tokens", "Generated tokens.")
        self.prefix_queries = counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.prefix_hits = counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self.requests = Counter(
            "halfbyte_http_requests", "Requests answered.", ["path", "method", "status"], registry=self._registry
        )
        self.request_seconds = Histogram(
            "halfbyte_http_request_seconds", "Time of requests.", ["path"], buckets=_SECONDS, registry=self._registry
        )

    def observer(self, model_name: str, started: float) -> Observer:
        """What watches the answers of one request that arrived at `started` (time.perf_counter)."""
        return _Watch(self, model_name, started)

    def request(self, route: Any, method: str, status: int, seconds: float) -> None:
        """An HTTP request is over. Labels come from our routes, never from what clients write."""
        path = getattr(route, "path", "other")
        known = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT") else "other"
        self.requests.labels(path, known, str(status)).inc()
        self.request_seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class _Watch:
    """Times the tokens of a request's answers."""

    def __init__(self, metrics: Metrics, name: str, started: float) -> None:
        self._metrics, self._name, self._started = metrics, name, started
        self._begun: set[int] = set()
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}

    def __call__(self, index: int, event: dict[str, Any], piece: Piece | None) -> None:
        m, now = self._metrics, time.perf_counter()
        if index not in self._begun and event["n_prompt_done"] > 0:
            self._begun.add(index)
            m.queue_time.labels(self._name).observe(now - self._started)
        if piece is None:
            return
        n_new = len(piece.token_ids)
        if n_new:
            m.generated_tokens.labels(self._name).inc(n_new)
            if index not in self._first:
                self._first[index] = now
                m.first_token.labels(self._name).observe(now - self._started)
                n_new, self._last[index] = n_new - 1, now
            # Tokens that were guessed rightly come together: each took its share of the time.
            for _ in range(n_new):
                m.between_tokens.labels(self._name).observe((now - self._last[index]) / n_new)
            self._last[index] = now
        if piece.output is not None:
            self._finish(index, now, piece)

    def _finish(self, index: int, now: float, piece: Piece) -> None:
        m, output = self._metrics, piece.output
        assert output is not None
        usage = output.usage
        m.success.labels(self._name, output.finish_reason).inc()
        m.latency.labels(self._name).observe(now - self._started)
        m.n_prompt.labels(self._name).observe(usage.prompt_tokens)
        m.n_generated.labels(self._name).observe(usage.completion_tokens)
        m.prompt_tokens.labels(self._name).inc(usage.prompt_tokens)
        m.prefix_queries.labels(self._name).inc(usage.prompt_tokens)
        m.prefix_hits.labels(self._name).inc(usage.cached_tokens)
        if usage.completion_tokens > 1 and index in self._first:
            m.per_token.labels(self._name).observe((now - self._first[index]) / (usage.completion_tokens - 1))


# Statistic of the engine -> metric, text.
_GAUGES = {
    "n_running": ("vllm:num_requests_running", "Answers that are computed now."),
    "n_waiting": ("vllm:num_requests_waiting", "Answers that wait for their turn."),
    "n_blocks": ("halfbyte_kv_blocks", "Blocks of the KV cache."),
    "n_blocks_free": ("halfbyte_kv_blocks_free", "Blocks that nothing is stored in."),
    "n_blocks_cached": ("halfbyte_kv_blocks_cached", "Blocks that the prefix cache remembers."),
}
_COUNTERS = {
    "n_preemptions": ("vllm:num_preemptions", "Answers that were set aside for want of blocks."),
    "n_steps": ("halfbyte_steps", "Passes through the model."),
    "prefill_seconds": ("halfbyte_prefill_seconds", "Time in steps that mostly read prompts."),
    "decode_seconds": ("halfbyte_decode_seconds", "Time in steps that mostly generate."),
}


class _EngineCollector(Collector):
    """Reads the engines' own counts when Prometheus asks."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats = {model.name: model.llm.stats() for model in self._models.loaded()}
        for key, (name, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            for model, values in stats.items():
                gauge.add_metric([model], values[key])
            yield gauge
        usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Share of blocks in use (1: all).", labels=["model_name"])
        for model, values in stats.items():
            used = values["n_blocks"] - values["n_blocks_free"] - values["n_blocks_cached"]
            usage.add_metric([model], max(0.0, used / max(1, values["n_blocks"])))
        yield usage
        for key, (name, text) in _COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["model_name"])
            for model, values in stats.items():
                counter.add_metric([model], values[key])
            yield counter
