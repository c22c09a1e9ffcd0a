"""Program: a text, or a conversation, that grows while the model fills in its parts."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from halfbyte.errors import InvalidArgumentError
from halfbyte.llm import LLM
from halfbyte.params import SamplingParams
from halfbyte.program.parts import Gen, Part, Select
from halfbyte.program.scoring import likelihoods

_Item = Part | str
# Each waits for the engine, which takes this many requests at once by default.
_N_WORKERS = 64


@dataclass(frozen=True)
class _State:
    """A program so far. messages are there only in a conversation, whose last one may still be open."""

    text: str = ""
    messages: tuple[dict[str, str], ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def with_text(self, text: str) -> _State:
        if not self.messages:
            return replace(self, text=self.text + text)
        *before, last = self.messages
        return replace(self, messages=(*before, {**last, "content": last["content"] + text}))

    def with_value(self, part: Gen | Select, value: Any, scores: dict[str, float] | None = None) -> _State:
        if part.name is None:
            return self
        found = self.scores if scores is None else {**self.scores, part.name: scores}
        return replace(self, values={**self.values, part.name: value}, scores=found)


class Program:
    """A text that grows by `+=`; parts of it the model fills in. defaults: sampling parameters of every gen().

    Errors of a part are raised where its result is read, and by all that was added after it.
    """

    def __init__(self, llm: LLM, params: SamplingParams | None = None, **defaults: Any) -> None:
        self._llm = llm
        self._params = (params or llm.defaults).replace(**defaults) if defaults else params or llm.defaults
        self._workers = ThreadPoolExecutor(_N_WORKERS, thread_name_prefix="halfbyte-program")
        self._state: Future[_State] = Future()
        self._state.set_result(_State())

    def __iadd__(self, added: _Item | tuple[_Item, ...]) -> Program:
        for item in added if isinstance(added, tuple) else (added,):
            if not isinstance(item, (str, Gen, Select)):
                raise InvalidArgumentError(
                    f"A program grows by texts, gen() and select(), not by {type(item).__name__}."
                )
            self._then(partial(self._grown, item=item))
        return self

    def system(self, text: str) -> Program:
        """Adds a system message. A program of messages uses the model's chat template."""
        return self._message("system", text)

    def user(self, text: str) -> Program:
        """Adds a user's message."""
        return self._message("user", text)

    def assistant(self, added: _Item | tuple[_Item, ...] = "") -> Program:
        """Adds the assistant's message, which `+=` may go on with."""
        self._message("assistant", "")
        self += added
        return self

    def fork(self, n: int) -> list[Program]:
        """Programs that go on from here, each for itself."""
        if n < 1:
            raise InvalidArgumentError(f"fork({n}): at least 1 was expected.")
        branches = []
        for _ in range(n):
            branch = object.__new__(Program)
            branch._llm, branch._params, branch._workers, branch._state = (
                self._llm,
                self._params,
                self._workers,
                self._state,
            )
            branches.append(branch)
        return branches

    # Reading ------------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        """The value of a named part."""
        values = self._state.result().values
        if name not in values:
            raise InvalidArgumentError(
                f'Nothing in the program is called "{name}".', hint=f"There is {', '.join(values) or 'nothing yet'}."
            )
        return values[name]

    @property
    def values(self) -> dict[str, Any]:
        """All named values."""
        return dict(self._state.result().values)

    def scores(self, name: str) -> dict[str, float]:
        """log p of each choice of a named select() (per token, if it compared those)."""
        return dict(self._state.result().scores[name])

    @property
    def text(self) -> str:
        """The text so far; of a conversation, its last message."""
        state = self._state.result()
        return state.messages[-1]["content"] if state.messages else state.text

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation so far."""
        return list(self._state.result().messages)

    def __str__(self) -> str:
        return self.text

    # Running ------------------------------------------------------------------------------------------------------

    def _then(self, step: Any) -> None:
        # Steps start in the order in which they were added, so one that waits for its predecessor waits for one that
        # has begun: the pool cannot lock up.
        before = self._state
        self._state = self._workers.submit(lambda: step(before.result()))

    def _message(self, role: str, text: str) -> Program:
        def added(state: _State) -> _State:
            if state.text:
                raise InvalidArgumentError("A program is either a text or a conversation: it has text already.")
            return replace(state, messages=(*state.messages, {"role": role, "content": text}))

        self._then(added)
        return self

    def _grown(self, state: _State, item: str | Gen | Select) -> _State:
        if isinstance(item, str):
            return state.with_text(item)
        if isinstance(item, Gen):
            params = self._params.replace(**item.options)
            output = self._llm.generate(self._prompt(state), params)
            value = output.text if params.response_format is None else output.parsed
            return state.with_text(output.text).with_value(item, value)
        prompt = self._prompt(state)
        scores = likelihoods(
            self._llm, prompt, [self._prompt(state.with_text(c)) for c in item.choices], item.per_token
        )
        found = dict(zip(item.choices, scores, strict=True))
        best = max(item.choices, key=lambda choice: found[choice])
        return state.with_text(best).with_value(item, best, found)

    def _prompt(self, state: _State) -> list[int]:
        if not state.messages:
            return self._llm.tokenize(state.text)
        if state.messages[-1]["role"] != "assistant":
            raise InvalidArgumentError("The model speaks as the assistant: put gen() and select() into assistant().")
        if state.messages[-1]["content"]:
            return self._llm.chat_ids(state.messages, continue_final_message=True)
        return self._llm.chat_ids(state.messages[:-1])
