"""The models that a server answers with."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

from halfbyte.errors import CancelledError, ModelNotFoundError
from halfbyte.llm import LLM
from halfbyte.params import SamplingParams
from halfbyte.server.bridge import Bridge


@dataclass
class LoadedModel:
    """A model in memory. n_users counts the requests that hold it: a pool drops it only at 0, and when it has been so
    for keep_alive_s seconds (None: no limit), at expires_at. adapter: what it answers with unless a request chooses."""

    name: str
    llm: LLM
    bridge: Bridge
    n_users: int = 0
    loaded_at: float = field(default_factory=time.time)
    used_at: float = field(default_factory=time.time)
    keep_alive_s: float | None = None
    expires_at: float | None = None
    adapter: str | None = None

    @property
    def defaults(self) -> SamplingParams:
        """What holds where a request says nothing."""
        return self.llm.defaults if self.adapter is None else self.llm.defaults.replace(lora=self.adapter)

    @property
    def max_sequences(self) -> int:
        """Answers that run at once; more wait."""
        return int(self.llm.engine.options["max_sequences"])


@dataclass(frozen=True)
class ModelCard:
    """What is told of a model, loaded or not. created: Unix seconds. n_ctx: None while it is not known. parent: the
    model that an adapter is for."""

    name: str
    created: int
    n_ctx: int | None = None
    parent: str | None = None


class ModelPool(ABC):
    """Gives models by name and knows who uses them."""

    @abstractmethod
    async def acquire(self, name: str | None) -> LoadedModel:
        """The model of that name (None: the default), kept loaded until release(). Raises ModelNotFoundError."""

    @abstractmethod
    def release(self, model: LoadedModel) -> None:
        """Ends one use of a model."""

    @abstractmethod
    def cards(self) -> list[ModelCard]:
        """Every model that acquire() would give."""

    @abstractmethod
    def loaded(self) -> list[LoadedModel]:
        """The models in memory now."""

    @abstractmethod
    async def close(self) -> None:
        """Ends everything and frees the memory."""


class SingleModelPool(ModelPool):
    """One model that is loaded from the start, under one or several names (the first one is shown), and with each of
    its adapters under the adapter's."""

    def __init__(self, llm: LLM, names: tuple[str, ...]) -> None:
        self._llm, self._names = llm, names
        self._created = int(time.time())
        self._model: LoadedModel | None = LoadedModel(names[0], llm, Bridge(llm))

    async def acquire(self, name: str | None) -> LoadedModel:
        plain = (name or self._names[0]).removesuffix(":latest")
        adapter = plain if plain in self._llm.adapters.names and plain not in self._names else None
        if adapter is None and plain not in self._names:
            known = ", ".join(card.name for card in self.cards())
            raise ModelNotFoundError(f'The model "{plain[:120]}" does not exist.', hint=f"Served here: {known}.")
        if self._model is None:
            raise CancelledError("The server is shutting down.")
        model = self._model if adapter is None else replace(self._model, name=adapter, adapter=adapter)
        model.n_users += 1
        model.used_at = time.time()
        return model

    def release(self, model: LoadedModel) -> None:
        model.n_users -= 1

    def cards(self) -> list[ModelCard]:
        own = [ModelCard(name, self._created, self._llm.n_ctx) for name in self._names]
        adapters = [name for name in self._llm.adapters.names if name not in self._names]
        return own + [ModelCard(name, self._created, self._llm.n_ctx, self._names[0]) for name in adapters]

    def loaded(self) -> list[LoadedModel]:
        return [self._model] if self._model else []

    async def close(self) -> None:
        if self._model is not None:
            await self._model.bridge.close()
            self._model = None
