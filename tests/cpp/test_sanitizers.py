"""The C++ programs of this folder under ASan/UBSan and TSan."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..conftest import write_tiny_llama
from ..convert.folders import write_folder
from .building import build

pytestmark = [pytest.mark.sanitizer, pytest.mark.timeout(7200)]


def test_mutated_files_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    program = build(
        tmp_path / "build", "mutate_files", "-DHALFBYTE_SANITIZE=address,undefined", build_type="RelWithDebInfo"
    )
    models = [write_tiny_llama(tmp_path / f"{name}.gguf", n_layers=1, format_name=name) for name in ("Q4_0", "F16")]
    write_folder(tmp_path / "folder")
    for model in (*models, *(tmp_path / "folder").glob("*.safetensors")):
        environment = {**os.environ, "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=2048"}
        result = subprocess.run(
            [program, model, os.environ.get("HALFBYTE_MUTANTS", "1000")],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-3000:]


def test_engine_under_thread_sanitizer(tmp_path: Path) -> None:
    program = build(tmp_path / "build", "engine_stress", "-DHALFBYTE_SANITIZE=thread", build_type="RelWithDebInfo")
    plain = write_tiny_llama(tmp_path / "plain.gguf", format_name="Q4_0")
    window = {"llama.attention.sliding_window": 20}
    windowed = write_tiny_llama(tmp_path / "windowed.gguf", format_name="Q4_0", **window)
    # Old sanitizers cannot map their shadow where the kernel randomizes much: run without randomization.
    setarch = shutil.which("setarch")
    command = [setarch, "--addr-no-randomize", str(program)] if setarch else [str(program)]
    for model in (plain, windowed):
        result = subprocess.run([*command, str(model)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        assert "done" in result.stdout
