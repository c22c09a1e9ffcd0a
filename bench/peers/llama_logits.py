"""llama.cpp's logits as llama-cpp-python offers them: one job a line of standard input, a .npy file as the answer.

A job is a JSON object: model, threads, tokens, first (logits are wanted of this token and those behind it) and output,
the file's path: float32, (len(tokens) - first, n_vocab). Keys and values are F16, as by default. A model stays loaded
until a job names another.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp
import numpy as np


class Loaded:
    def __init__(self, path: str, n_ctx: int, threads: int) -> None:
        self.path = path
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def logits(self, tokens: list[int], first: int) -> Any:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, i >= first
            batch.seq_id[i][0] = 0
        failed = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode gives {failed}")
        found = ctypes.cast(llama_cpp.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(found, shape=(len(tokens) - first, self._n_vocab))

    def close(self) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


def main() -> None:
    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    print(json.dumps({"version": f"llama-cpp-python {llama_cpp.__version__}"}), flush=True)
    loaded: Loaded | None = None
    for line in sys.stdin:
        job, answer = json.loads(line), {}
        try:
            if loaded is None or loaded.path != job["model"]:
                if loaded is not None:
                    loaded.close()
                loaded = None
                loaded = Loaded(job["model"], len(job["tokens"]), job["threads"])
            np.save(job["output"], loaded.logits(job["tokens"], job["first"]))
        except RuntimeError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
