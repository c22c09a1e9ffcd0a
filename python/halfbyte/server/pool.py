"""Several models in one server: loaded when they are asked for, dropped when they idle or others need their place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from halfbyte.errors import OutOfMemoryError
from halfbyte.hub import ModelFiles
from halfbyte.llm import LLM
from halfbyte.server.bridge import Bridge
from halfbyte.server.catalog import Catalog, Entry
from halfbyte.server.models import LoadedModel, ModelCard, ModelPool


class CatalogPool(ModelPool):
    """Loads the models of a catalog on demand, at most max_loaded at once; the least recently used idle one goes first.

    open_llm loads files (in a thread). keep_alive_s: how long an idle model stays (None:
    until its place is needed); a request may say otherwise for its model (LoadedModel.keep_alive_s).
    """

    def __init__(
        self,
        catalog: Catalog,
        open_llm: Callable[[ModelFiles], LLM],
        *,
        max_loaded: int = 1,
        keep_alive_s: float | None = None,
    ) -> None:
        self.catalog = catalog
        self._open_llm = open_llm
        self._max_loaded = max(1, max_loaded)
        self._keep_alive_s = keep_alive_s
        self._loaded: dict[str, LoadedModel] = {}
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._released = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def acquire(self, name: str | None) -> LoadedModel:
        entry = await asyncio.to_thread(self.catalog.find, name)
        while (model := self._loaded.get(entry.name)) is None:
            task = self._loading.get(entry.name)
            if task is None:
                task = self._loading[entry.name] = asyncio.create_task(self._load(entry))
                task.add_done_callback(partial(self._on_loaded, entry.name))
            await asyncio.shield(task)  # a client that goes away leaves it to the others
        self._stop_timer(model)
        if model.n_users == 0:
            model.keep_alive_s = self._keep_alive_s
        model.n_users += 1
        model.used_at = time.time()
        return model

    def release(self, model: LoadedModel) -> None:
        model.n_users -= 1
        model.used_at = time.time()
        if model.n_users == 0 and self._loaded.get(model.name) is model:
            self._released.set()
            self._start_timer(model)

    def cards(self) -> list[ModelCard]:
        loaded = {name: model.llm.n_ctx for name, model in self._loaded.items()}
        return [ModelCard(name, int(e.created), loaded.get(e.name)) for name, e in self.catalog.entries().items()]

    def loaded(self) -> list[LoadedModel]:
        return list(self._loaded.values())

    def drop(self, name: str) -> None:
        """Frees a model, if it is loaded, as soon as no request holds it."""
        model = self._loaded.get(name)
        if model is not None:
            model.keep_alive_s = 0
            if model.n_users == 0:
                self._start_timer(model)

    async def close(self) -> None:
        for task in self._loading.values():
            task.cancel()
        for model in list(self._loaded.values()):
            self._unload(model)
        await asyncio.gather(*self._closing)

    # Loading ------------------------------------------------------------------------------------------------------

    async def _load(self, entry: Entry) -> LoadedModel:
        async with self._one_at_a_time:
            await self._make_room(self._max_loaded - 1)
            try:
                llm = await asyncio.to_thread(self._open, entry)
            except OutOfMemoryError:
                if not self._loaded:
                    raise
                await self._make_room(0)
                llm = await asyncio.to_thread(self._open, entry)
            model = LoadedModel(entry.name, llm, Bridge(llm), keep_alive_s=self._keep_alive_s)
            self._loaded[entry.name] = model
            self._start_timer(model)
            return model

    def _open(self, entry: Entry) -> LLM:
        return self._open_llm(entry.open())

    async def _make_room(self, n_left: int) -> None:
        """Waits until at most n_left models are loaded; drops those that idle longest."""
        while len(self._loaded) > n_left:
            idle = [model for model in self._loaded.values() if model.n_users == 0]
            if idle:
                self._unload(min(idle, key=lambda model: model.used_at))
            else:
                self._released.clear()
                await self._released.wait()
        while self._closing:  # their memory is not free before
            await asyncio.gather(*self._closing)

    def _on_loaded(self, name: str, task: asyncio.Task[LoadedModel]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # whoever still waits is told; nobody else need be

    def _unload(self, model: LoadedModel) -> None:
        self._stop_timer(model)
        del self._loaded[model.name]
        task = asyncio.create_task(_close(model))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # Idling -------------------------------------------------------------------------------------------------------

    def _start_timer(self, model: LoadedModel) -> None:
        self._stop_timer(model)
        if model.keep_alive_s is not None:
            model.expires_at = time.time() + model.keep_alive_s
            loop = asyncio.get_running_loop()
            self._timers[model.name] = loop.call_later(model.keep_alive_s, self._expire, model)

    def _stop_timer(self, model: LoadedModel) -> None:
        timer = self._timers.pop(model.name, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, model: LoadedModel) -> None:
        if model.n_users == 0 and self._loaded.get(model.name) is model:
            self._unload(model)


async def _close(model: LoadedModel) -> None:
    await model.bridge.close()
    await asyncio.to_thread(model.llm.close)
