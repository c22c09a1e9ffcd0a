"""The server on Ray Serve (extra `[ray]`): replicas of each model behind one door, chats kept with the replica that knows them.

A Serve config names build_app:

    applications:
      - name: halfbyte
        import_path: halfbyte.server.ray_app:build_app
        args:
          models:
            - {model: smollm2, min_replicas: 2, max_replicas: 8, n_threads: 4}
"""

# Annotations are real objects here, not strings: Serve and FastAPI read them.
import asyncio
import hashlib
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from typing import Any

# Ray reports usage to its makers unless told otherwise, before it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, HTTPOptions, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response, StreamingResponse

from halfbyte.errors import InvalidArgumentError
from halfbyte.server import page
from halfbyte.server.config import ServerConfig
from halfbyte.server.errors import ApiError
from halfbyte.server.responses import Json

Messages = list[dict[str, Any]]

# Replicas that may die under one request before it is given up.
_TRIES = 3
# The part of a prompt that decides where it goes: beyond it two chats differ, or share so much that it does not matter.
_PREFIX_CHARACTERS = 2048
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


class RayModel(BaseModel):
    """One model and its replicas."""

    model: str = Field(description="a .gguf file, a known name, or owner/repo; every node must be able to load it")
    name: str = Field(default="", description="what clients call it (default: from model)")
    n_threads: int = Field(default=1, ge=1, description="processors of each replica")
    num_gpus: float = 0
    max_sequences: int = Field(default=64, ge=1, description="answers that a replica computes at once")
    options: dict[str, Any] = Field(default={}, description="more keywords of halfbyte.LLM: n_ctx, kv_type, ...")
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=16.0, gt=0, description="requests a replica, that scaling aims at")

    @property
    def shown(self) -> str:
        return self.name or self.model.rsplit("/", 1)[-1].removesuffix(".gguf")


class RayServer(BaseModel):
    """What build_app takes. server: fields of ServerConfig; rate limits hold for each replica."""

    models: list[RayModel] = Field(min_length=1)
    doors: int = Field(default=1, ge=1, description="processes that read requests and pass them on")
    server: dict[str, Any] = {}


class Replica:
    """One copy of a model: the whole server as an ASGI app, called through Ray instead of through a port."""

    def __init__(self, model: RayModel, config: ServerConfig) -> None:
        from halfbyte.llm import LLM
        from halfbyte.server.app import create_app
        from halfbyte.server.models import SingleModelPool

        self._llm = LLM(model.model, n_threads=model.n_threads, max_sequences=model.max_sequences, **model.options)
        # What one replica keeps the others do not know.
        config = replace(config, max_stored_bytes=0)
        self._app = create_app(SingleModelPool(self._llm, (model.shown,)), config)

    async def check_health(self) -> None:
        self._llm.stats()

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Messages]:
        """The ASGI messages that answer a request, as many at a time as there are; ends early when it is cancelled."""
        ready: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        gone = asyncio.Event()
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if unread:
                return unread.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app(scope | {"app": self._app}, receive, ready.put)  # type: ignore[arg-type]
            finally:
                ready.put_nowait(None)

        task = asyncio.create_task(run())
        try:
            ended = False
            while not ended:
                messages = [await ready.get()]
                while not ready.empty():
                    messages.append(ready.get_nowait())
                ended = messages[-1] is None
                if found := [message for message in messages if message is not None]:
                    yield found
            await task
        finally:
            gone.set()
            # The app notices by itself that the client has gone; it must not outlive this request.
            await asyncio.wait([task], timeout=5)
            task.cancel()


async def _body(stream: Any, messages: Messages, is_stream: bool) -> AsyncIterator[bytes]:
    """The answer's bytes; a stream whose replica dies ends with an event that says so."""
    try:
        while True:
            yield b"".join(message.get("body", b"") for message in messages)
            messages = await anext(stream)
    except StopAsyncIteration:
        pass
    except RayActorError:
        if not is_stream:
            raise
        error = ApiError(503, "The replica that computed this answer was lost; ask again.")
        yield f"data: {json.dumps(error.openai())}\n\n".encode()
    finally:
        stream.cancel()


def affinity_of(asked: dict[str, Any]) -> str:
    """A name for how a prompt begins: equal for the turns of one chat, so that they meet their cached prefix again."""
    turns = asked.get("messages") or asked.get("input") or asked.get("prompt")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        # All up to the first thing that the user says.
        first = next((i for i, turn in enumerate(turns) if isinstance(turn, dict) and turn.get("role") == "user"), 0)
        turns = turns[: first + 1]
    if not turns:
        return ""
    begin = [asked.get("system"), asked.get("instructions"), turns]
    text = json.dumps(begin, sort_keys=True)[:_PREFIX_CHARACTERS]
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; what is wrong with a body is for the replica to say."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(error: ApiError) -> Response:
    return Json(error.openai(), error.status)


# Serve takes a copy of the class where it is decorated: what it uses stands before it.
door = FastAPI(openapi_url=None)


@serve.deployment
@serve.ingress(door)
class Door:
    """Reads which model a request is for and what its prompt begins with, and passes it to a replica."""

    def __init__(self, replicas: dict[str, DeploymentHandle], max_body_bytes: int) -> None:
        self._replicas, self._max_body_bytes = replicas, max_body_bytes

    @door.get("/health")
    async def health(self) -> Response:
        return Json({"status": "ok"})

    @door.api_route("/", methods=["GET", "HEAD"])
    async def index(self, request: Request) -> Response:
        return await page.index(request)

    @door.get("/metrics")
    async def metrics(self) -> Response:
        text = "Every replica counts for itself: Ray's own metrics tell of requests and replicas."
        return _refusal(ApiError(404, text))

    @door.get("/v1/models")
    async def models(self, request: Request) -> Response:
        """The lists of all models as one."""
        listed: list[Any] = []
        for name in self._replicas:
            answer = await self._pass(request, name, b"")
            whole = b"".join([part async for part in answer.body_iterator if isinstance(part, bytes)])
            if answer.status_code != 200:
                return Response(whole, answer.status_code, dict(answer.headers))
            listed += json.loads(whole)["data"]
        return Json({"object": "list", "data": listed})

    @door.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
    async def forward(self, request: Request) -> Response:
        read = bytearray()
        async for part in request.stream():
            read += part
            if len(read) > self._max_body_bytes:
                return _refusal(ApiError(413, f"The body is larger than {self._max_body_bytes} bytes."))
        body = bytes(read)
        asked = _parsed(body)
        name = asked.get("model")
        if not name or not isinstance(name, str):
            # No request for a model, or a bad one: any replica knows what to say.
            listed = request.url.path.removeprefix("/v1/models/")
            name = listed if listed in self._replicas else next(iter(self._replicas))
        if name not in self._replicas:
            return _refusal(ApiError(404, f'The model "{name}" does not exist.', code="model_not_found"))
        return await self._pass(request, name, body, affinity_of(asked))

    async def _pass(self, request: Request, name: str, body: bytes, affinity: str = "") -> StreamingResponse:
        """Asks replicas until one begins to answer: until then nothing has been sent, and another can take over."""
        known = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers")
        scope = {key: request.scope[key] for key in known} | {"client": request.scope.get("client"), "root_path": ""}
        handle = self._replicas[name].options(stream=True, session_id=affinity)
        for tries in range(_TRIES):
            stream = handle.answer.remote(scope, body)
            try:
                messages = await anext(stream)
                # A stream's head alone is no answer yet.
                if messages[-1]["type"] == "http.response.start":
                    messages += await anext(stream)
                break
            except RayActorError:
                if tries + 1 == _TRIES:
                    raise
            except BaseException:
                stream.cancel()
                raise
        start = messages.pop(0)
        headers = [(k, v) for k, v in start["headers"] if k.lower() not in _HOP_BY_HOP]
        is_stream = any(k.lower() == b"content-type" and v.startswith(b"text/event-stream") for k, v in headers)
        response = StreamingResponse(_body(stream, messages, is_stream), start["status"])
        response.raw_headers = headers
        return response


def build_app(arguments: RayServer) -> serve.Application:
    """The Serve application: a deployment a model, and the door before them."""
    config = ServerConfig(**arguments.server)
    names = [model.shown for model in arguments.models]
    if len(set(names)) < len(names):
        raise InvalidArgumentError(f"Two models share a name: {', '.join(names)}.", hint="Give each its own `name`.")
    replicas = {}
    for model in arguments.models:
        if model.min_replicas > model.max_replicas:
            raise InvalidArgumentError(f"{model.shown}: min_replicas {model.min_replicas} is above max_replicas.")
        deployment = serve.deployment(
            Replica,
            name=f"model-{model.shown}",
            max_ongoing_requests=model.max_sequences + config.max_queue,
            graceful_shutdown_timeout_s=config.shutdown_timeout_s,
            health_check_period_s=5,
            autoscaling_config=AutoscalingConfig(
                min_replicas=model.min_replicas,
                initial_replicas=max(1, model.min_replicas),
                max_replicas=model.max_replicas,
                target_ongoing_requests=model.target_ongoing_requests,
            ),
            ray_actor_options={"num_cpus": model.n_threads, "num_gpus": model.num_gpus},
            request_router_config=RequestRouterConfig(
                request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
            ),
        )
        replicas[model.shown] = deployment.bind(model, config)
    n_requests = sum((model.max_sequences + config.max_queue) * model.max_replicas for model in arguments.models)
    door_before = Door.options(  # type: ignore[attr-defined]
        num_replicas=arguments.doors,
        max_ongoing_requests=n_requests,
        graceful_shutdown_timeout_s=config.shutdown_timeout_s,
        ray_actor_options={"num_cpus": 0},
    )
    return door_before.bind(replicas, config.max_body_bytes)


def serve_with_ray(
    models: list[RayModel], config: ServerConfig, host: str, port: int, on_ready: Callable[[str], Any]
) -> None:
    """Runs the application until it is told to stop, on the cluster that RAY_ADDRESS names, else on this machine."""
    import ray

    ray.init(log_to_driver=False, include_dashboard=False)
    serve.start(http_options=HTTPOptions(host=host, port=port))
    arguments = RayServer(models=models, server=asdict(config))
    serve.run(build_app(arguments), name="halfbyte", route_prefix="/", blocking=False)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    on_ready(f"http://{host}:{port}")
    stop.wait()

    def end() -> None:
        serve.delete("halfbyte")  # answers that run are finished first; other applications of a shared cluster stay
        ray.shutdown()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(config.shutdown_timeout_s + 10)
    if ending.is_alive():
        # Its processes were told to stop at the same moment, and are not there to answer.
        os._exit(1)
