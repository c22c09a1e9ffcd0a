"""Builds the C++ programs of this folder, out of the source tree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..conftest import REPOSITORY


def build(folder: Path, target: str, *options: str, build_type: str = "Release") -> Path:
    """Builds one target with CMake's options and returns where a program of that name lies."""
    cmake = shutil.which("cmake")
    assert cmake is not None, "cmake is needed: pip install cmake"
    configure = [cmake, "-S", str(REPOSITORY), "-B", str(folder), f"-DCMAKE_BUILD_TYPE={build_type}"]
    fixed = ("-DHALFBYTE_PYTHON=OFF", "-DHALFBYTE_CPP_TESTS=ON")
    for command in ([*configure, *fixed, *options], [cmake, "--build", str(folder), "--target", target, "-j2"]):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder / "tests" / "cpp" / target


def level_hashes(*command: str | Path) -> dict[str, str]:
    """Runs level_check and returns the hash that it prints for each level."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return dict(line.split() for line in result.stdout.splitlines())
