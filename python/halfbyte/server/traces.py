"""Traces for OpenTelemetry: a span for each request, when the environment names a collector (extra `[otel]`)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from halfbyte.errors import UnsupportedError

# OpenTelemetry's own variables: whoever sets one of them wants traces.
_SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# Our fact -> the attribute of the semantic conventions.
_ATTRIBUTES = {
    "request": "halfbyte.request_id",
    "method": "http.request.method",
    "status": "http.response.status_code",
    "model": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "client_gone": "halfbyte.client_gone",
}


class Traces:
    """Sends spans in the background; other spans of the process are not touched."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME", "halfbyte")
        provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = provider.get_tracer("halfbyte.server")

    def record(self, route: Any, headers: Mapping[str, str], seconds: float, facts: Mapping[str, Any]) -> None:
        """A request that is over, as part of the trace that its traceparent header names."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        path = getattr(route, "path", "")
        attributes = {_ATTRIBUTES[key]: value for key, value in facts.items() if key in _ATTRIBUTES}
        end = time.time_ns()
        span = self._tracer.start_span(
            f"{facts['method']} {path}".strip(),
            context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER,
            attributes={**attributes, "http.route": path},
            start_time=end - round(seconds * 1e9),
        )
        if facts["status"] >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)


def open_traces() -> Traces | None:
    """Traces when the environment asks for them. Raises UnsupportedError when they cannot be had."""
    asked = next((name for name in _SWITCHES if os.environ.get(name)), None)
    if asked is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        return Traces()
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"{asked} asks for traces, which need the package {error.name}.",
            hint="Install it with: pip install 'halfbyte[otel]', or unset the variable.",
        ) from None
