"""llama.cpp's quantizer as llama-cpp-python offers it: one job a line of standard input, its seconds as the answer,
on the clock and of processor time.

A job is a JSON object: input, output, file_type (general.file_type's number), threads, and, where there is an importance
matrix, importance: a .npz of tensor name -> float32.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp
import numpy as np


def quantize(job: dict[str, Any]) -> dict[str, Any]:
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype = job["threads"], job["file_type"]
    kept = []
    if job.get("importance"):
        means = {name: np.ascontiguousarray(v, np.float32) for name, v in np.load(job["importance"]).items()}
        rows = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()  # the last one, nameless, ends the list
        for row, (name, values) in zip(rows, means.items(), strict=False):
            kept.append(values)
            row.name, row.size = name.encode(), values.size
            row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = rows
    start, start_cpu = time.perf_counter(), time.process_time()
    failed = llama_cpp.llama_model_quantize(job["input"].encode(), job["output"].encode(), ctypes.byref(params))
    if failed:
        raise RuntimeError(f"llama_model_quantize gives {failed}")
    return {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - start_cpu}


def main() -> None:
    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    print(json.dumps({"version": f"llama-cpp-python {llama_cpp.__version__}"}), flush=True)
    for line in sys.stdin:
        try:
            answer = quantize(json.loads(line))
        except (RuntimeError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
