"""A server of scripted answers behind the real page: what is asked decides what comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from halfbyte.server import page

MARKDOWN = """# Prefixes

The **longest common prefix** of a list is found by `zip`, as in *this* sketch:

```python
def common_prefix(words: list[str]) -> str:
    # Letters at the same place must all be equal.
    out = ""
    for letters in zip(*words):
        if len(set(letters)) > 1:
            break
        out += letters[0]
    return out
```

| words | prefix |
| --- | ---: |
| flow, flower | `flow` |
| dog, car | none |

1. Take the first letters.
2. Stop where they differ; see [the documentation](https://docs.python.org/3/library/functions.html#zip).

> It is linear in the number of letters.

3. A list may begin anywhere.

- [x] zip
- [ ] os.path.commonprefix
"""
HOSTILE = """<img src="https://elsewhere.example/a.png" onerror="document.title='owned'">
<script>document.title = 'owned'</script>

![a picture](https://elsewhere.example/b.png) and [a link](javascript:document.title='owned')

<style>body { display: none }</style> <a href="data:text/html,x" onclick="document.title='owned'">here</a>
H<sub>2</sub>O and <div style="position: fixed; inset: 0">cover</div>
"""


def pieces(text: str) -> list[str]:
    """The text in pieces of four characters, as a tokenizer might cut it."""
    return [text[i : i + 4] for i in range(0, len(text), 4)]


class Fake:
    """Answers, and what was asked of it."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.abandoned = threading.Event()
        self.seen = threading.Event()  # what has come was shown
        self.api_key = ""
        self.models = ["smollm2", "qwen3-0.6b"]
        self.app = FastAPI()
        self.app.include_router(page.router)
        self.app.add_api_route("/v1/models", self._models)
        self.app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"])

    def _refused(self, request: Request) -> Response | None:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return JSONResponse({"error": {"message": "Incorrect API key provided."}}, 401)
        return None

    async def _models(self, request: Request) -> Response:
        data = [{"id": name, "object": "model"} for name in self.models]
        return self._refused(request) or JSONResponse({"object": "list", "data": data})

    async def _chat(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        asked = await request.json()
        self.requests.append(asked)
        question = asked["messages"][-1]["content"]
        if question == "refuse":
            return JSONResponse({"error": {"message": "The prompt is too long: 9000 tokens of 8192."}}, 400)
        return StreamingResponse(self._stream(request, question), media_type="text/event-stream")

    async def _stream(self, request: Request, question: str) -> AsyncIterator[bytes]:
        answers = {
            "markdown": MARKDOWN,
            "hostile": HOSTILE,
            "nothing": "",
            "unicode": "Grüße, 世界 👩‍👩‍👧‍👦!",
            "again": f"Answer {len(self.requests)}.",
        }
        if question == "think":
            for piece in pieces("First, the user asks. Then I answer."):
                yield event({"reasoning_content": piece})
        if question == "break":
            yield event({"content": "Half an ans"})
            yield b'data: {"error": {"message": "The engine stopped."}}\n\n'
            return
        if question == "vanish":
            yield event({"content": "Half an ans"})
            await asyncio.to_thread(self.seen.wait, 120)  # a browser may drop what it has not handed on yet
            raise ConnectionAbortedError  # uvicorn cuts the connection
        if question == "forever":
            try:
                while True:
                    yield event({"content": "word "})
                    await asyncio.sleep(0.01)
            finally:
                self.abandoned.set()
        text = answers.get(question, f"You said: {question}")
        body = b"".join(event({"content": piece}) for piece in pieces(text))
        if question == "unicode":  # cut between any two bytes, with the line ends that servers may use
            body = b": ping\r\n\r\n" + body.replace(b"\n", b"\r\n")
            for i in range(0, len(body), 7):
                yield body[i : i + 7]
                await asyncio.sleep(0)
        else:
            yield body
        yield event({}, finish_reason="length" if question == "cut" else "stop")
        usage = {"prompt_tokens": 12, "completion_tokens": 34, "prompt_tokens_details": {"cached_tokens": 8}}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode()
        yield b"data: [DONE]\n\n"


def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    """One chunk of a chat completion."""
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": None}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


@contextmanager
def listening(app: Any, port: int = 0) -> Iterator[str]:
    """The app on a port of this machine; yields its URL."""
    bound = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()
