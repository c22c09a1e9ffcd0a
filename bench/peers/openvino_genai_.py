"""OpenVINO GenAI with its own GGUF reader (llama and qwen files in the formats it knows), timed by its own counters."""

from __future__ import annotations

import random
import sys

import numpy as np
import openvino
import openvino_genai
from protocol import serve


def main() -> None:
    pipeline = openvino_genai.LLMPipeline(sys.argv[1], "CPU", INFERENCE_NUM_THREADS=int(sys.argv[2]))
    draw = random.Random(1)

    def measure(n_prompt: int, n_new: int) -> openvino_genai.PerfMetrics:
        config = openvino_genai.GenerationConfig(max_new_tokens=n_new, ignore_eos=True, do_sample=False)
        ids = np.array([[draw.randrange(1000, 20000) for _ in range(n_prompt)]], np.int64)
        return pipeline.generate(openvino.Tensor(ids), config).perf_metrics

    def prefill(n: int) -> float:
        return n / (measure(n, 1).get_ttft().mean / 1000)

    def decode(n: int, depth: int = 1) -> float:
        return 1000 / measure(depth, n + 1).get_tpot().mean

    serve(f"openvino-genai {openvino_genai.__version__}", pp=prefill, tg=decode)


if __name__ == "__main__":
    main()
