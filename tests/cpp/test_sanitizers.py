"""The C++ programs of this folder under ASan/UBSan and TSan."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..conftest import REPOSITORY, write_tiny_llama

pytestmark = [pytest.mark.sanitizer, pytest.mark.timeout(2400)]


def build(preset: str, program: str, folder: Path) -> Path:
    """Builds one program with a preset's flags, out of the source tree."""
    cmake = shutil.which("cmake")
    assert cmake is not None, "cmake is needed: pip install cmake"
    flags = {"asan": "address,undefined", "tsan": "thread"}[preset]
    configure = [
        cmake,
        "-S",
        str(REPOSITORY),
        "-B",
        str(folder),
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DHALFBYTE_PYTHON=OFF",
    ]
    subprocess.run(
        [*configure, "-DHALFBYTE_CPP_TESTS=ON", f"-DHALFBYTE_SANITIZE={flags}"], check=True, capture_output=True
    )
    subprocess.run([cmake, "--build", str(folder), "--target", program, "-j2"], check=True, capture_output=True)
    return folder / "tests" / "cpp" / program


def test_mutated_files_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    program = build("asan", "mutate_gguf", tmp_path / "build")
    for format_name in ("Q4_0", "F16"):
        model = write_tiny_llama(tmp_path / f"{format_name}.gguf", n_layers=1, format_name=format_name)
        environment = {**os.environ, "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=2048"}
        result = subprocess.run([program, model, "1000"], capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 0, result.stderr[-3000:]


def test_engine_under_thread_sanitizer(tmp_path: Path) -> None:
    program = build("tsan", "engine_stress", tmp_path / "build")
    model = write_tiny_llama(tmp_path / "m.gguf", format_name="Q4_0")
    # Old sanitizers cannot map their shadow where the kernel randomizes much: run without randomization.
    setarch = shutil.which("setarch")
    command = [setarch, "--addr-no-randomize", str(program)] if setarch else [str(program)]
    result = subprocess.run([*command, str(model)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "done" in result.stdout
