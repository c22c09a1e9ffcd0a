"""Tell what this machine offers and what halfbyte makes of it.

halfbyte doctor
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
from typing import Any

import halfbyte
from halfbyte import _core
from halfbyte.cli.common import human_bytes, print_json
from halfbyte.machine import available_memory, total_memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    cpu = _core.cpu_info()
    gpu = _core.gpu_info()
    if not gpu["used"] and shutil.which("nvidia-smi") is None:
        gpu["problem"] += "; no NVIDIA driver is installed either (nvidia-smi)"
    facts: dict[str, Any] = {
        "version": halfbyte.__version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "cpu": cpu,
        "memory_bytes": total_memory(),
        "memory_available_bytes": available_memory(),
        "memory_bandwidth_gb_s": round(_core.memory_bandwidth(cpu["cores"]) / 1e9, 1),
        "memory_bandwidth_one_thread_gb_s": round(_core.memory_bandwidth(1) / 1e9, 1),
        "gpu": gpu,
    }
    if arguments.json:
        print_json(facts)
        return 0
    print(f"halfbyte     {facts['version']} (Python {facts['python']}, {facts['system']})")
    print(f"processor    {cpu['name']}, {cpu['cores']} usable cores")
    print(f"CPU level    {cpu['level']} of {', '.join(cpu['supported'])}. {cpu['reason']}")
    print(
        f"memory       {human_bytes(facts['memory_bytes'])}, {human_bytes(facts['memory_available_bytes'])} available"
    )
    print(
        f"bandwidth    {facts['memory_bandwidth_gb_s']} GB/s reading with all cores,"
        f" {facts['memory_bandwidth_one_thread_gb_s']} GB/s with one"
    )
    if gpu["used"]:
        free = human_bytes(gpu["memory_available_bytes"])
        print(
            f"GPU          {gpu['name']} (compute capability {gpu['capability']}),"
            f" {human_bytes(gpu['memory_bytes'])}, {free} free; layers go there unless -ngl says otherwise"
        )
    else:
        print(f"GPU          not used: {gpu['problem']}")
    return 0
