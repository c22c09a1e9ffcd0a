"""The ARM levels, cross-compiled and run under an emulator: right against the reference, and in x86's own bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .building import build, level_hashes

pytestmark = [pytest.mark.arm, pytest.mark.timeout(7200)]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None, reason=f"needs {COMPILER} and {EMULATOR}"
)
def test_arm_levels_give_the_bits_of_x86(tmp_path: Path) -> None:
    here = level_hashes(build(tmp_path / "here", "level_check"))
    options = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}")
    program = build(tmp_path / "arm", "level_check", *options)
    emulator = (EMULATOR, "-L", "/usr/aarch64-linux-gnu", "-cpu")
    arm = level_hashes(*emulator, "max", program)
    assert set(arm) == {"neon", "neon_dotprod"}
    assert set(level_hashes(*emulator, "cortex-a72", program)) == {"neon"}
    assert set(here.values()) | set(arm.values()) == set(arm.values()), (here, arm)
    assert len(set(arm.values())) == 1
