"""The level amx: its kernels on tiles in plain C++ against the other levels' bits, and its instructions in a real build."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from halfbyte import _core

from .building import build, level_hashes

pytestmark = [
    pytest.mark.amx,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86 compiler"),
]


@pytest.mark.skipif("avx512" not in _core.cpu_info()["supported"], reason="the rest of the level is AVX-512")
@pytest.mark.parametrize("sanitizers", ["", "address,undefined"])
def test_emulated_tiles_give_the_bits_of_every_level(tmp_path: Path, sanitizers: str) -> None:
    program = build(tmp_path, "level_check", "-DHALFBYTE_EMULATE_AMX=ON", f"-DHALFBYTE_SANITIZE={sanitizers}")
    hashes = level_hashes(program)
    assert {"avx2", "avx512", "amx"} <= set(hashes)
    assert len(set(hashes.values())) == 1


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_a_real_build_uses_the_tiles(tmp_path: Path) -> None:
    build(tmp_path, "halfbyte_level_amx")
    (built,) = tmp_path.rglob("amx.cpp.o")
    text = subprocess.run(["objdump", "-d", built], capture_output=True, text=True, check=True).stdout
    found = {
        word: len(re.findall(rf"\b{word}\b", text)) for word in ("ldtilecfg", "tilerelease", "tdpbssd", "tilestored")
    }
    assert all(found.values()), found
    # Every entry that gives tiles their shapes gives them back.
    assert found["ldtilecfg"] == found["tilerelease"]
