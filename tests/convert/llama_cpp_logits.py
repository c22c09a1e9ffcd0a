"""Writes llama.cpp's logits of token ids: argument {"model": .., "ids": [..], "out": .npy} (runs where llama_cpp is)."""

import json
import sys

import llama_cpp
import numpy as np

job = json.loads(sys.argv[1])
silent = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silent, None)
llama = llama_cpp.Llama(job["model"], n_ctx=64, logits_all=True, n_threads=1, verbose=False, type_k=0, type_v=0)
llama.eval(job["ids"])
np.save(job["out"], np.array(llama.scores[: len(job["ids"])], np.float32))
