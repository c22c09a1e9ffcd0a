"""Answers each line {"model": .., "ids": [..], "out": .npy} with "" or what went wrong, and llama.cpp's logits in the
file (runs where llama_cpp is)."""

import json
import sys

import llama_cpp
import numpy as np

said: list[bytes] = []
listener = llama_cpp.llama_log_callback(lambda _, text, __: said.append(text))
llama_cpp.llama_log_set(listener, None)
for line in sys.stdin:
    job = json.loads(line)
    said.clear()
    try:
        llama = llama_cpp.Llama(job["model"], n_ctx=64, logits_all=True, n_threads=1, verbose=True, type_k=0, type_v=0)
        llama_cpp.llama_log_set(listener, None)
        llama.eval(job["ids"])
        np.save(job["out"], np.array(llama.scores[: len(job["ids"])], np.float32))
        llama.close()
        problem = ""
    except (ValueError, RuntimeError):
        problem = b"".join(t for t in said if b"error" in t or b"missing" in t).decode()
    print(json.dumps(problem), flush=True)
