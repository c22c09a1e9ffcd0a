"""One HTTP request under way: the models it holds, the jobs it runs, and their end when it ends or its client goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from halfbyte.errors import HalfbyteError
from halfbyte.server.bridge import Job, Prompt
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel

if TYPE_CHECKING:
    from halfbyte.server.app import Server

T = TypeVar("T")


@dataclass
class Call:
    """A request's state. The gate makes it, puts it in the ASGI scope, and closes it whatever happens."""

    server: Server
    receive: Receive
    id: str
    key: str = ""  # the API key's public name, "" without one
    started: float = field(default_factory=time.perf_counter)
    models: list[LoadedModel] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    client_gone: bool = False
    _watcher: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, request: Request) -> Call:
        """The call that a request belongs to."""
        call: Call = request.scope["halfbyte.call"]
        return call

    async def model(self, name: str | None) -> LoadedModel:
        """The model of that name, held until the call ends. Raises ApiError."""
        try:
            model = await self.server.models.acquire(name)
        except HalfbyteError as error:
            raise ApiError.of(error, param="model") from error
        self.models.append(model)
        return model

    def submit(self, model: LoadedModel, prompts: Sequence[Prompt], *, param: str = "prompt") -> Job:
        """Queues prompts; the job ends with the call, or when the client goes away. param: the field that holds the
        prompts, for error objects. Raises ApiError."""
        config = self.server.config
        n_answers = sum(prompt.params.n for prompt in prompts)
        if n_answers > config.max_choices:
            raise ApiError(400, f"{n_answers} answers were asked for; {config.max_choices} are allowed.", param="n")
        for prompt in prompts:
            if 0 < config.max_prompt_tokens < len(prompt.ids):
                raise ApiError(
                    400,
                    f"The prompt has {len(prompt.ids)} tokens; this server takes {config.max_prompt_tokens}.",
                    param=param,
                    code="context_length_exceeded",
                )
        if config.max_queue and model.bridge.n_open + n_answers > config.max_queue + model.max_sequences:
            raise ApiError(503, "The server has too many requests waiting.", code="overloaded", retry_after_s=1)
        try:
            job = model.bridge.submit(prompts)
        except HalfbyteError as error:
            raise ApiError.of(error, param=param) from error
        self.jobs.append(job)
        self._watch()
        return job

    async def work(self, function: Any, *arguments: Any, **keywords: Any) -> Any:
        """Runs a function that computes for long (tokenizing, templates, grammars) outside the event loop."""
        return await asyncio.to_thread(function, *arguments, **keywords)

    async def finish(self, awaited: Awaitable[T]) -> T:
        """Awaits under the server's time limit. Raises ApiError 504."""
        limit = self.server.config.request_timeout_s
        try:
            return await asyncio.wait_for(awaited, limit or None)
        except TimeoutError:
            raise ApiError(504, f"The answer took longer than {limit:g} s.", code="timeout") from None
        except HalfbyteError as error:
            raise ApiError.of(error) from error

    async def close(self) -> None:
        """Cancels what still runs and releases the models."""
        if self._watcher is not None:
            self._watcher.cancel()
        for job in self.jobs:
            job.cancel()
        for model in self.models:
            self.server.models.release(model)
        self.models.clear()

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._await_disconnect())

    async def _await_disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        for job in self.jobs:
            job.cancel()
