"""Between the engine's thread and the event loop: one thread carries every request's events over."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from halfbyte import _core
from halfbyte.chat.answer import AnswerForm
from halfbyte.errors import CancelledError, ConstraintError
from halfbyte.llm import LLM
from halfbyte.outputs import Output, Piece
from halfbyte.params import SamplingParams
from halfbyte.running import Running
from halfbyte.server.errors import ApiError

# How long one wait for the engine lasts; closing the mailbox ends it at once.
_WAIT_S = 3600.0


@dataclass(frozen=True)
class Prompt:
    """Token ids, what is asked of them, the form of the answers (None: params.response_format's), and the field of the
    request that it came from."""

    ids: list[int]
    params: SamplingParams
    form: AnswerForm | None = None
    form_field: str | None = None


#: Told of every event: index of the answer, the engine's event, and what it added to the answer.
Observer = Callable[[int, dict[str, Any], Piece | None], None]


class Job:
    """Answers under way: of every prompt all that are computed, in order. Iterate for (index of the answer, piece).

    Iteration raises what made an answer fail; the others are cancelled then.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._pieces: deque[tuple[int, Piece]] = deque()
        self._arrived = asyncio.Event()
        self._n_open = 0
        self._error: Exception | None = None
        self.form_field: str | None = None
        self.answers: list[Running] = []
        self.n_each = 1  # of one prompt
        self.observer: Observer | None = None

    def __aiter__(self) -> Job:
        return self

    async def __anext__(self) -> tuple[int, Piece]:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._n_open == 0:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._pieces.popleft()

    async def outputs(self) -> list[Output]:
        """The finished answers that were asked for: of every prompt its params.n, in order."""
        found: dict[int, Output] = {}
        async for index, piece in self:
            if piece.output is not None:
                found[index] = piece.output
        answers = [found[i] for i in range(len(self.answers))]
        return [
            each for i in range(0, len(answers), self.n_each) for each in Output.chosen(answers[i : i + self.n_each])
        ]

    def cancel(self) -> None:
        """Ends what still runs, within one step of the engine."""
        for answer in self.answers:
            answer.cancel()

    def fail(self, error: Exception) -> None:
        """Ends everything; iteration raises `error` after the pieces that are there."""
        self._error = self._error or error
        self.cancel()
        self._arrived.set()

    def add(self, answer: Running) -> None:
        """Another answer, already submitted."""
        self.answers.append(answer)
        self._n_open += 1

    def feed(self, index: int, event: dict[str, Any]) -> None:
        """An event of one answer."""
        try:
            piece = self.answers[index].feed(event)
        except Exception as error:  # whatever the engine reports is the reader's business
            self._n_open -= 1
            self.fail(ApiError.of(error, self.form_field) if isinstance(error, ConstraintError) else error)
            return
        if self.observer is not None:
            self.observer(index, event, piece)
        if piece is None:
            return
        self._n_open -= piece.finish_reason is not None
        self._pieces.append((index, piece))
        self._arrived.set()


class Bridge:
    """Submits to an LLM's engine from an event loop, and hands the events back there."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._loop: asyncio.AbstractEventLoop | None = None  # that of whoever submits
        self._mailbox = _core.Mailbox()
        self._open: dict[int, tuple[Job, int]] = {}  # the engine's id -> job, index of the answer
        self._closing = False
        self._thread = threading.Thread(target=self._pump, name="halfbyte-events", daemon=True)
        self._thread.start()

    @property
    def n_open(self) -> int:
        """Answers that are not finished."""
        return len(self._open)

    def submit(self, prompts: Sequence[Prompt], client: str = "") -> Job:
        """Queues prompts of a client; clients take turns. Call it in the event loop: no event can then come before its job is known."""
        if self._closing:
            raise CancelledError("The model is being closed.")
        self._loop = asyncio.get_running_loop()
        job = Job(self)
        try:
            for prompt in prompts:
                answers = self._llm.submit(prompt.ids, prompt.params, self._mailbox, form=prompt.form, client=client)
                job.n_each, job.form_field = len(answers), prompt.form_field
                for answer in answers:
                    self._open[answer.id] = (job, len(job.answers))
                    job.add(answer)
        except BaseException:
            job.cancel()
            raise
        return job

    async def close(self) -> None:
        """Ends the thread and fails what still runs. The LLM is left to its owner."""
        self._closing = True
        self._mailbox.close()
        await asyncio.to_thread(self._thread.join)
        for job, _ in list(self._open.values()):
            job.fail(CancelledError("The server is shutting down."))
        self._open.clear()

    def _pump(self) -> None:
        while not self._closing:
            events = self._mailbox.take(_WAIT_S)
            if events and self._loop is not None:
                self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            found = self._open.get(event["id"])
            if found is None:
                continue
            if event["finish"]:
                del self._open[event["id"]]
            job, index = found
            job.feed(index, event)
