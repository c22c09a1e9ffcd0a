"""The ARM levels, cross-compiled and run under an emulator: right against the reference, and in x86's own bits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ..conftest import REPOSITORY

pytestmark = [pytest.mark.arm, pytest.mark.timeout(1800)]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def build(folder: Path, *options: str) -> Path:
    cmake = shutil.which("cmake")
    assert cmake is not None, "cmake is needed: pip install cmake"
    configure = [cmake, "-S", str(REPOSITORY), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release", "-DHALFBYTE_PYTHON=OFF"]
    subprocess.run([*configure, "-DHALFBYTE_CPP_TESTS=ON", *options], check=True, capture_output=True)
    subprocess.run([cmake, "--build", str(folder), "--target", "level_check", "-j2"], check=True, capture_output=True)
    return folder / "tests" / "cpp" / "level_check"


def hashes(command: list[str]) -> dict[str, str]:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return dict(line.split() for line in result.stdout.splitlines())


@pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None, reason=f"needs {COMPILER} and {EMULATOR}"
)
def test_arm_levels_give_the_bits_of_x86(tmp_path: Path) -> None:
    here = hashes([str(build(tmp_path / "here"))])
    options = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}")
    program = build(tmp_path / "arm", *options)
    command = [EMULATOR, "-L", "/usr/aarch64-linux-gnu", str(program)]
    arm = hashes([*command[:1], "-cpu", "max", *command[1:]])
    assert set(arm) == {"neon", "neon_dotprod"}
    assert set(hashes([*command[:1], "-cpu", "cortex-a72", *command[1:]])) == {"neon"}
    assert set(here.values()) | set(arm.values()) == set(arm.values()), (here, arm)
    assert len(set(arm.values())) == 1
