"""One HTTP request under way: the models it holds, the jobs it runs, and their end when it ends or its client goes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from halfbyte.errors import HalfbyteError
from halfbyte.outputs import Usage
from halfbyte.server.bridge import Job, Prompt
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel
from halfbyte.server.state import Server

T = TypeVar("T")

log = logging.getLogger("halfbyte.server")


@dataclass
class Call:
    """A request's state. The gate makes it, puts it in the ASGI scope, and closes it whatever happens."""

    server: Server
    receive: Receive
    id: str
    client: str = ""  # whom limits are counted for: the API key's number, or the address of an anonymous client
    started: float = field(default_factory=time.perf_counter)
    facts: dict[str, Any] = field(default_factory=dict)  # for the log line
    models: list[LoadedModel] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    client_gone: bool = False
    _watcher: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None

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
        self.facts["model"] = model.name
        return model

    def submit(self, model: LoadedModel, prompts: Sequence[Prompt], *, param: str = "prompt") -> Job:
        """Queues prompts; the job ends with the call, or when the client goes away, or time is up. param: the field
        that holds the prompts, for error objects. Raises ApiError."""
        config = self.server.config
        n_answers = sum(prompt.params.n_sequences for prompt in prompts)
        if n_answers > config.max_choices:
            raise ApiError(400, f"{n_answers} answers were asked for; {config.max_choices} are allowed.", param="n")
        for prompt in prompts:
            self.check_length(len(prompt.ids), param)
        if config.max_queue and model.bridge.n_open + n_answers > config.max_queue + model.max_sequences:
            raise ApiError(503, "The server has too many requests waiting.", code="overloaded", retry_after_s=1)
        try:
            job = model.bridge.submit(prompts, self.client)
        except HalfbyteError as error:
            raise ApiError.of(error, param=param) from error
        if config.log_prompts:
            for prompt in prompts:
                text = model.llm.tokenizer.decode(prompt.ids)
                log.info("prompt", extra={"facts": {"request": self.id, "text": text}})
        job.observer = self.server.metrics.observer(model.name, self.started)
        self.jobs.append(job)
        self.watch()
        if self._timer is None and config.request_timeout_s > 0:
            self._timer = asyncio.get_running_loop().call_later(config.request_timeout_s, self._time_out)
        return job

    def check_length(self, n_tokens: int, param: str) -> None:
        """Raises ApiError when a prompt is longer than the server takes."""
        limit = self.server.config.max_prompt_tokens
        if 0 < limit < n_tokens:
            text = f"The prompt has {n_tokens} tokens; this server takes {limit}."
            raise ApiError(400, text, param=param, code="context_length_exceeded")

    async def work(self, param: str, function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Runs what computes for long (tokenizing, templates, grammars) outside the event loop. param: the field that
        is to blame when it fails. Raises ApiError."""
        try:
            return await asyncio.to_thread(function, *arguments, **keywords)
        except HalfbyteError as error:
            raise ApiError.of(error, param=param) from error

    def usage(self) -> Usage:
        """Tokens read and generated so far, in all."""
        total = Usage()
        for job in self.jobs:
            for answer in job.answers:
                total.prompt_tokens += answer.usage.prompt_tokens
                total.cached_tokens += answer.usage.cached_tokens
                total.completion_tokens += answer.n_generated
        return total

    def close(self) -> None:
        """Cancels what still runs and releases the models."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for job in self.jobs:
            job.cancel()
        for model in self.models:
            self.server.models.release(model)
        self.models.clear()

    def watch(self) -> None:
        """Begins to look for the client's going; the body must have been read."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._await_disconnect())

    async def _await_disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        for job in self.jobs:
            job.cancel()

    def _time_out(self) -> None:
        limit = self.server.config.request_timeout_s
        for job in self.jobs:
            job.fail(ApiError(504, f"The answer took longer than {limit:g} s.", code="timeout"))
