"""Clients that the default suite does not install: Anthropic's SDK, npm's openai, an OpenTelemetry collector."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Live

pytestmark = pytest.mark.clients

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "name": "now",
    "description": "the time",
    "input_schema": {"type": "object", "properties": {"zone": {"type": "boolean"}}, "required": ["zone"]},
}


def test_anthropics_sdk(live: Live) -> None:
    import anthropic

    said = live.llm.chat(HI, max_tokens=8, temperature=0).text
    with anthropic.Anthropic(base_url=live.url, api_key="-", max_retries=0) as client:
        ask: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 8, "extra_body": {"temperature": 0}}
        whole = client.messages.create(**ask)
        assert whole.content[0].type == "text"
        assert whole.content[0].text == said
        with client.messages.stream(**ask) as stream:
            assert "".join(stream.text_stream) == said
            assert stream.get_final_message().usage.output_tokens == 8
        choice: Any = {"type": "any", "disable_parallel_tool_use": True}
        with client.messages.stream(**{**ask, "max_tokens": 200}, tools=[TOOL], tool_choice=choice) as stream:
            last = stream.get_final_message()
        assert last.stop_reason == "tool_use"
        (use,) = [block for block in last.content if block.type == "tool_use"]
        assert isinstance(use.input["zone"], bool)  # type: ignore[index]
        assert client.messages.count_tokens(model="tiny", messages=HI).input_tokens == whole.usage.input_tokens + (
            whole.usage.cache_read_input_tokens or 0
        )
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**{**ask, "model": "none"})


_SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "-", maxRetries: 0 });
const ask = { model: "tiny", messages: [{ role: "user", content: "hi" }], max_tokens: 8, temperature: 0 };
const whole = await client.chat.completions.create(ask);
let streamed = "";
const usages = [];
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) usages.push(chunk.usage.completion_tokens);
}
const runner = client.chat.completions.stream(ask);
const final = await runner.finalContent();
const schema = { type: "object", properties: { x: { type: "boolean" } }, required: ["x"], additionalProperties: false };
const parsed = await client.chat.completions.parse({
  ...ask, max_tokens: 100, response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema } },
});
const response = await client.responses.create({ model: "tiny", input: "hi", max_output_tokens: 8, temperature: 0 });
const vector = await client.embeddings.create({ model: "tiny", input: "abc" });
let status = 0, code = "";
try { await client.chat.completions.create({ ...ask, model: "none" }); } catch (error) { status = error.status; code = error.code; }
console.log(JSON.stringify({
  whole: whole.choices[0].message.content, streamed, final, usages, parsed: JSON.parse(parsed.choices[0].message.content),
  response: response.output_text, dimensions: vector.data[0].embedding.length, status, code,
}));
"""


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs node and npm")
def test_npms_sdk(live: Live, tmp_path: Path) -> None:
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "openai@6"]
    subprocess.run(npm, check=True, timeout=900)
    script = tmp_path / "ask.mjs"
    script.write_text(_SCRIPT)
    result = subprocess.run(["node", str(script), live.url], capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    said = live.llm.chat(HI, max_tokens=8, temperature=0).text
    assert [found[key] for key in ("whole", "streamed", "final", "response")] == [said] * 4
    assert found["usages"] == [8]
    assert isinstance(found["parsed"]["x"], bool)
    assert found["dimensions"] == 64
    assert (found["status"], found["code"]) == (404, "model_not_found")


def test_traces_reach_a_collector(serve: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Any] = []
    arrived = threading.Event()

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            spans.extend(s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()
            if any(span.name == "POST /v1/completions" for span in spans):
                arrived.set()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        live = serve()
        trace = "0af7651916cd43dd8448eb211c80319c"
        with live.http(headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}) as client:
            client.post("/v1/completions", json={"prompt": "secret", "max_tokens": 3})
        assert arrived.wait(120)
        collector.shutdown()
    (span,) = [span for span in spans if span.name == "POST /v1/completions"]
    attributes = {a.key: a.value.int_value or a.value.string_value for a in span.attributes}
    assert span.trace_id.hex() == trace
    assert attributes["http.response.status_code"] == 200
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert "secret" not in str(span)
